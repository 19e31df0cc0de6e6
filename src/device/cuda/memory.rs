//! Device memory, and pages of the host's that the card copies to and from by itself.

use super::driver::{Context, Handle, OUT_OF_MEMORY};
use crate::device::{AllocError, Pending};
use crate::error::Result;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

/// Bytes of a pinned block: what is read back in steps (losses, counts) fits into one.
const BLOCK: usize = 64 << 10;
/// Bytes of the ring through which small uploads go; each half is free again when its event has passed.
const RING: usize = 8 << 20;
/// Uploads and read-backs over this many bytes are not hot: the driver stages them itself.
const SMALL: usize = RING / 8;
/// No timing: events that are only waited for.
const DISABLE_TIMING: u32 = 2;

/// Device memory; given back when its last slice is dropped.
pub(super) struct Memory {
    context: Arc<Context>,
    pub at: u64,
}

impl Memory {
    /// `bytes` zeroed bytes, a multiple of 4.
    pub fn new(context: &Arc<Context>, bytes: u64) -> Result<Memory, AllocError> {
        let api = context.enter().map_err(AllocError::Other)?;
        let mut at = 0;
        // SAFETY: writes one address
        match unsafe { (api.alloc)(&mut at, bytes as usize) } {
            OUT_OF_MEMORY => return Err(AllocError::OutOfMemory),
            code => context.check(code).map_err(AllocError::Other)?,
        }
        let memory = Memory { context: context.clone(), at };
        // SAFETY: the range is the one that was just allocated
        let code = unsafe { (api.fill)(at, 0, bytes as usize / 4, context.stream) };
        context.check(code).map_err(AllocError::Other)?;
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: the driver waits for what is under way; nobody else has the address. Of a lost context nothing is left to free
            unsafe { (api.free)(self.at) };
        }
    }
}

/// An event of the stream.
pub(super) struct Event {
    context: Arc<Context>,
    handle: Handle,
}

// SAFETY: events may be used from any thread
unsafe impl Send for Event {}

impl Event {
    pub fn new(context: &Arc<Context>, is_timed: bool) -> Result<Event> {
        let api = context.enter()?;
        let mut handle = null_mut();
        // SAFETY: writes one handle
        context.check(unsafe { (api.event)(&mut handle, if is_timed { 0 } else { DISABLE_TIMING }) })?;
        Ok(Event { context: context.clone(), handle })
    }

    pub fn record(&self) -> Result<()> {
        let api = self.context.enter()?;
        // SAFETY: both handles are this context's
        self.context.check(unsafe { (api.record)(self.handle, self.context.stream) })
    }

    pub fn wait(&self) -> Result<()> {
        let api = self.context.enter()?;
        // SAFETY: the handle is this context's
        self.context.check(unsafe { (api.event_synchronize)(self.handle) })
    }

    /// Milliseconds from `earlier` to this one; both have passed.
    pub fn since(&self, earlier: &Event) -> Result<f32> {
        let api = self.context.enter()?;
        let mut ms = 0.0;
        // SAFETY: writes one number
        self.context.check(unsafe { (api.elapsed)(&mut ms, earlier.handle, self.handle) })?;
        Ok(ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: nobody else has the handle
            unsafe { (api.event_destroy)(self.handle) };
        }
    }
}

/// Host memory that the card reaches.
pub(super) struct Pinned {
    context: Arc<Context>,
    at: *mut c_void,
}

// SAFETY: plain memory with one owner
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned> {
        let api = context.enter()?;
        let mut at = null_mut();
        // SAFETY: writes one address
        context.check(unsafe { (api.host_alloc)(&mut at, bytes, 0) })?;
        Ok(Pinned { context: context.clone(), at })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: nothing copies to or from it any more
            unsafe { (api.host_free)(self.at) };
        }
    }
}

/// The way of small uploads: the host need not wait for the stream.
pub(super) struct Ring {
    pinned: Pinned,
    /// The half that is in use, and the bytes of it that are.
    half: usize,
    used: usize,
    halves: [Event; 2],
}

impl Ring {
    pub fn new(context: &Arc<Context>) -> Result<Ring> {
        let halves = [Event::new(context, false)?, Event::new(context, false)?];
        Ok(Ring { pinned: Pinned::new(context, RING)?, half: 0, used: 0, halves })
    }

    /// Copies `data` to the device, in order with what was asked for before.
    pub fn upload(&mut self, context: &Context, to: u64, data: &[u8]) -> Result<()> {
        let api = context.enter()?;
        let len = data.len();
        let from = if len > SMALL {
            data.as_ptr().cast()
        } else {
            let at = self.room(len.next_multiple_of(16))?;
            // SAFETY: `at .. at + len` lies in the ring, and no copy reads it any more
            unsafe {
                let place = self.pinned.at.cast::<u8>().add(at);
                std::ptr::copy_nonoverlapping(data.as_ptr(), place, len);
                place.cast_const().cast::<c_void>()
            }
        };
        // SAFETY: the driver has read pageable memory when it returns, and the ring's is kept until the event behind has passed
        context.check(unsafe { (api.to_device)(to, from, len, context.stream) })
    }

    /// Where so many bytes are free, which a half has room for.
    fn room(&mut self, len: usize) -> Result<usize> {
        if self.used + len > RING / 2 {
            // on to the other half, once the copies out of it are done
            self.halves[self.half].record()?;
            self.half ^= 1;
            self.halves[self.half].wait()?;
            self.used = 0;
        }
        let at = self.half * (RING / 2) + self.used;
        self.used += len;
        Ok(at)
    }
}

/// Pinned blocks that wait for the next read-back.
#[derive(Default)]
pub(super) struct Blocks(Mutex<Vec<Pinned>>);

/// Bytes on their way back.
pub(super) enum Readback {
    Small { pinned: Option<Pinned>, event: Event, len: usize, blocks: Arc<Blocks> },
    Done(Vec<u8>),
}

impl Readback {
    pub fn begin(context: &Arc<Context>, blocks: &Arc<Blocks>, from: u64, len: usize) -> Result<Readback> {
        let api = context.enter()?;
        if len > BLOCK {
            let mut bytes = vec![0u8; len];
            // SAFETY: the buffer has len bytes and outlives the copy, which is waited for
            context.check(unsafe { (api.to_host)(bytes.as_mut_ptr().cast(), from, len, context.stream) })?;
            context.synchronize()?;
            return Ok(Readback::Done(bytes));
        }
        let kept = blocks.0.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let pinned = kept.map_or_else(|| Pinned::new(context, BLOCK), Ok)?;
        // SAFETY: the block has room, and is not used for anything else before the event has passed
        context.check(unsafe { (api.to_host)(pinned.at, from, len, context.stream) })?;
        let event = Event::new(context, false)?;
        event.record()?;
        Ok(Readback::Small { pinned: Some(pinned), event, len, blocks: blocks.clone() })
    }
}

impl Pending for Readback {
    fn wait(mut self: Box<Self>) -> Result<Vec<u8>> {
        match &mut *self {
            Readback::Done(bytes) => Ok(std::mem::take(bytes)),
            Readback::Small { pinned, event, len, .. } => {
                event.wait()?;
                // SAFETY: the copy has ended, and the block is this one's until it is dropped
                let bytes =
                    pinned.as_ref().map(|p| unsafe { std::slice::from_raw_parts(p.at.cast::<u8>(), *len) }.to_vec());
                Ok(bytes.unwrap_or_default())
            }
        }
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        if let Readback::Small { pinned, event, blocks, .. } = self
            && event.wait().is_ok()
            && let Some(pinned) = pinned.take()
        {
            blocks.0.lock().unwrap_or_else(|e| e.into_inner()).push(pinned);
        }
    }
}
