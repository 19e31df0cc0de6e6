//! Recording and submitting. Launches gather in one compute pass; a submission is cut when its estimated time reaches
//! the budget, so that drivers' watchdogs and desktops stay happy. The estimate learns from the clock.

use super::pipelines::Pipeline;
use super::poll::poll;
use crate::device::{Cost, Grid, profile::KernelTime};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of parameters in one submission; at 256 bytes a launch, 1,024 launches.
pub(super) const PARAMS_BYTES: u64 = 256 * 1024;
/// The wall time a submission should take, in seconds.
const SUBMISSION: f64 = 0.150;
/// The wall time one dispatch should take at most, in seconds; longer ones are cut.
const DISPATCH: f64 = 0.080;
/// Submissions under way at once that take as long as they may: few enough to stay close to the device.
const IN_FLIGHT: usize = 3;
/// The same of short ones: a wait for one of few would leave the device without work soon after.
const SHORT_IN_FLIGHT: usize = 16;
/// Launches of the first submission to a device that has nothing to do, so that it starts soon; each further one may have
/// twice as many.
const FIRST: u64 = 32;
/// Timestamps of one submission: two a launch.
const QUERIES: u32 = 4096;

pub(super) struct Queue {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    params: Vec<u8>,
    pub params_buffer: wgpu::Buffer,
    params_stride: u64,
    /// Nominal seconds of what is recorded and not submitted.
    pending: f64,
    in_flight: VecDeque<(wgpu::SubmissionIndex, f64, Instant)>,
    last_done: Instant,
    /// Measured seconds over nominal ones.
    slowness: f64,
    /// Of the times above those that are used.
    share: f64,
    timer: Option<Timer>,
    pub submissions: u64,
    /// Submissions that are known to have ended, since someone waited for them.
    pub ended: Arc<AtomicU64>,
    /// Submissions since the device was last known to have nothing to do.
    since_idle: u32,
    /// The last submission.
    pub last: Option<wgpu::SubmissionIndex>,
}

struct Timer {
    set: wgpu::QuerySet,
    resolve: wgpu::Buffer,
    period_ns: f64,
    pending: Vec<(&'static str, Cost)>,
    done: Vec<KernelTime>,
}

impl Queue {
    /// `share`: of the usual time of submissions and dispatches.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue, slowness: f64, share: f64) -> Self {
        let params_buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: PARAMS_BYTES,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let params_stride = u64::from(device.limits().min_uniform_buffer_offset_alignment).max(256);
        Queue {
            device,
            queue,
            encoder: None,
            pass: None,
            params: Vec::with_capacity(PARAMS_BYTES as usize),
            params_buffer,
            params_stride,
            pending: 0.0,
            in_flight: VecDeque::new(),
            last_done: Instant::now(),
            slowness,
            share,
            timer: None,
            submissions: 0,
            ended: Arc::default(),
            since_idle: 0,
            last: None,
        }
    }

    /// Nominal seconds at 1 TFLOP/s and 100 GB/s; `slowness` turns them into the device's.
    fn nominal(cost: Cost) -> f64 {
        (cost.flops / 1e12).max(cost.bytes / 1e11) + 5e-6
    }

    /// Into how many dispatches a launch of this cost is cut.
    pub fn pieces(&self, cost: Cost, groups: u64) -> u64 {
        let seconds = Self::nominal(cost) * self.slowness;
        ((seconds / (self.share * DISPATCH)).ceil() as u64).clamp(1, groups.max(1))
    }

    pub fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()))
    }

    /// Records one dispatch. The parameters are at most `params_stride` bytes; the piece replaces the front of them.
    pub fn dispatch(
        &mut self,
        name: &'static str,
        pipeline: &Pipeline,
        group: &wgpu::BindGroup,
        (piece, params): (Grid, &[u8]),
        grid: (u32, u32),
        cost: Cost,
    ) {
        if self.params.is_empty() {
            self.note_idle();
        }
        let offset = self.params.len() as u32;
        self.params.extend_from_slice(bytemuck::bytes_of(&piece));
        self.params.extend_from_slice(params.get(size_of::<Grid>()..).unwrap_or_default());
        self.params.resize(self.params.len().next_multiple_of(self.params_stride as usize), 0);
        self.open_pass(name, cost);
        if let Some(pass) = &mut self.pass {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, group, &[offset]);
            pass.dispatch_workgroups(grid.0, grid.1, 1);
        }
        if self.timer.is_some() {
            self.pass = None;
        }
        self.pending += Self::nominal(cost);
    }

    fn open_pass(&mut self, name: &'static str, cost: Cost) {
        if self.pass.is_some() {
            return;
        }
        let encoder = self.encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        let timestamp_writes = self.timer.as_mut().map(|t| {
            let at = 2 * t.pending.len() as u32;
            t.pending.push((name, cost));
            wgpu::ComputePassTimestampWrites {
                query_set: &t.set,
                beginning_of_pass_write_index: Some(at),
                end_of_pass_write_index: Some(at + 1),
            }
        });
        let label = timestamp_writes.as_ref().map(|_| name);
        let pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes });
        self.pass = Some(pass.forget_lifetime());
    }

    /// Whether the next launch should go into a new submission.
    pub fn is_full(&self) -> bool {
        let most = PARAMS_BYTES.min((FIRST * self.params_stride) << self.since_idle.min(16));
        let params_full = self.params.len() as u64 + self.params_stride > most;
        let timer_full = self.timer.as_ref().is_some_and(|t| 2 * t.pending.len() as u32 + 2 > QUERIES);
        params_full || timer_full || self.pending * self.slowness >= self.share * SUBMISSION
    }

    /// Hands what is recorded to the device; waits for the oldest submission if too many are under way.
    pub fn submit(&mut self) -> Result<(), String> {
        self.pass = None;
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        if !self.params.is_empty() {
            // ordered behind the previous submission, so the one buffer serves all
            self.queue.write_buffer(&self.params_buffer, 0, &self.params);
            self.params.clear();
        }
        let timed = self.timer.as_ref().map(|t| 2 * t.pending.len() as u32).filter(|n| *n > 0);
        if let (Some(t), Some(n)) = (&self.timer, timed) {
            encoder.resolve_query_set(&t.set, 0..n, &t.resolve, 0);
        }
        let nominal = std::mem::take(&mut self.pending);
        self.note_idle();
        let index = self.queue.submit([encoder.finish()]);
        self.submissions += 1;
        self.since_idle += 1;
        self.last = Some(index.clone());
        self.in_flight.push_back((index, nominal, Instant::now()));
        if timed.is_some() {
            self.drain()?;
            self.collect_times();
        }
        while self.in_flight.len() > IN_FLIGHT && (self.in_flight.len() > SHORT_IN_FLIGHT || self.is_far_ahead()) {
            self.retire_up_to(0)?;
        }
        Ok(())
    }

    /// Begins with a small submission again, if all are known to have ended. While launches are timed that is after each, and
    /// nobody waits for the first.
    fn note_idle(&mut self) {
        if self.timer.is_none() && self.ended.load(Ordering::Relaxed) == self.submissions {
            self.since_idle = 0;
        }
    }

    /// Whether what is under way takes longer than [`IN_FLIGHT`] submissions should.
    fn is_far_ahead(&self) -> bool {
        let nominal: f64 = self.in_flight.iter().map(|(_, nominal, _)| nominal).sum();
        nominal * self.slowness > IN_FLIGHT as f64 * self.share * SUBMISSION
    }

    /// Waits for the submission at this place of those under way, and learns from how long it and those before it took.
    fn retire_up_to(&mut self, place: usize) -> Result<(), String> {
        let (Some((_, _, sent)), Some((last, _, _))) = (self.in_flight.front(), self.in_flight.get(place)) else {
            return Ok(());
        };
        let began = self.last_done.max(*sent);
        let wait = wgpu::PollType::Wait { submission_index: Some(last.clone()), timeout: None };
        let nominal: f64 = self.in_flight.drain(..=place).map(|(_, nominal, _)| nominal).sum();
        poll(&self.device, wait)?;
        self.last_done = Instant::now();
        // short submissions measure latency, not speed
        if nominal > 1e-4 {
            let seen = ((self.last_done - began).as_secs_f64() / nominal).clamp(1e-4, 1e4);
            self.slowness = 0.8 * self.slowness + 0.2 * seen;
        }
        Ok(())
    }

    /// Waits for everything submitted.
    pub fn drain(&mut self) -> Result<(), String> {
        if !self.in_flight.is_empty() {
            self.retire_up_to(self.in_flight.len() - 1)?;
        }
        poll(&self.device, wgpu::PollType::wait_indefinitely())?;
        self.ended.fetch_max(self.submissions, Ordering::Relaxed);
        Ok(())
    }

    /// Starts timing every launch; needs timestamp queries.
    pub fn start_timer(&mut self) {
        let size = u64::from(QUERIES) * 8;
        self.timer = Some(Timer {
            set: self.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("kernel times"),
                ty: wgpu::QueryType::Timestamp,
                count: QUERIES,
            }),
            resolve: self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("kernel times"),
                size,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            period_ns: f64::from(self.queue.get_timestamp_period()),
            pending: Vec::new(),
            done: Vec::new(),
        });
    }

    pub fn stop_timer(&mut self) -> Vec<KernelTime> {
        self.timer.take().map(|t| t.done).unwrap_or_default()
    }

    fn collect_times(&mut self) {
        let Some(timer) = &mut self.timer else { return };
        let bytes = read_now(&self.device, &self.queue, &timer.resolve, 16 * timer.pending.len() as u64);
        let ticks: Vec<u64> =
            bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default())).collect();
        for ((name, cost), t) in timer.pending.drain(..).zip(ticks.chunks_exact(2)) {
            let ns = t[1].saturating_sub(t[0]) as f64 * timer.period_ns;
            timer.done.push(KernelTime {
                name,
                time: Duration::from_nanos(ns as u64),
                flops: cost.flops,
                bytes: cost.bytes,
            });
        }
    }
}

/// Copies a buffer out and waits; profiling only.
fn read_now(device: &wgpu::Device, queue: &wgpu::Queue, from: &wgpu::Buffer, size: u64) -> Vec<u8> {
    let staging = staging(device, size);
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(from, 0, &staging, 0, size);
    queue.submit([encoder.finish()]);
    staging.slice(..).map_async(wgpu::MapMode::Read, |_| {});
    let _ = poll(device, wgpu::PollType::wait_indefinitely()); // a lost device shows itself at the next submission
    staging.slice(..).get_mapped_range().map(|view| view.to_vec()).unwrap_or_default()
}

pub(super) fn staging(device: &wgpu::Device, size: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("read back"),
        size,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}
