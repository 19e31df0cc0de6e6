//! Batches that are made while the step before them runs.

use super::order::{Batches, Position};
use super::pack::Batch;
use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};

/// [`Batches`] on a thread of their own, one window ahead. The thread ends with this value.
pub struct Ahead {
    ask: Sender<Ask>,
    told: Receiver<Told>,
    /// Where the next window to be taken starts, whatever is ready already.
    position: Position,
    /// Whether the next window has been asked for.
    is_coming: bool,
}

enum Ask {
    Next,
    Seek(Position),
}

struct Told {
    window: Result<Vec<Batch>>,
    /// Behind the window.
    position: Position,
}

impl Ahead {
    /// Starts where `batches` are.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the system gives no thread.
    pub fn start<'scope>(scope: &'scope Scope<'scope, '_>, mut batches: Batches<'scope>) -> Result<Ahead> {
        let ((ask, asked), (tell, told), position) = (channel(), channel(), batches.position());
        let make = move || {
            for ask in asked {
                let window = match ask {
                    Ask::Next => batches.next_window(),
                    Ask::Seek(to) => batches.seek(to).map(|()| Vec::new()),
                };
                if tell.send(Told { window, position: batches.position() }).is_err() {
                    break;
                }
            }
        };
        let thread = Builder::new().name("batches".into()).spawn_scoped(scope, make);
        thread.map_err(|e| Error::invalid("a thread for batches", e.to_string()))?;
        Ok(Ahead { ask, told, position, is_coming: false })
    }

    /// [`Batches::next_window`]; the one behind it is begun.
    ///
    /// # Errors
    /// As there.
    pub fn next_window(&mut self) -> Result<Vec<Batch>> {
        let told = if self.is_coming { self.hear()? } else { self.answer(Ask::Next)? };
        self.position = told.position;
        self.is_coming = told.window.is_ok() && self.ask.send(Ask::Next).is_ok();
        told.window
    }

    /// [`Batches::position`]: behind the last window that was taken.
    pub fn position(&self) -> Position {
        self.position
    }

    /// [`Batches::seek`].
    ///
    /// # Errors
    /// As there.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        if std::mem::take(&mut self.is_coming) {
            self.hear()?; // it is of the place that is left
        }
        let told = self.answer(Ask::Seek(position))?;
        if let Err(e) = told.window {
            self.answer(Ask::Seek(self.position))?; // what was made ahead is still to come
            return Err(e);
        }
        self.position = told.position;
        Ok(())
    }

    fn answer(&self, ask: Ask) -> Result<Told> {
        self.ask.send(ask).map_err(|_| ended())?;
        self.hear()
    }

    fn hear(&self) -> Result<Told> {
        self.told.recv().map_err(|_| ended())
    }
}

fn ended() -> Error {
    Error::invalid("the thread for batches", "has ended before the run")
}
