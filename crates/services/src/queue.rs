//! What waits to be taken, and is never more than so much.

use std::collections::VecDeque;

/// With more, the oldest go.
const WAITING: usize = 4096;

pub(crate) struct Queue<T>(VecDeque<T>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Queue<T> {
    pub(crate) fn push(&mut self, value: T) {
        if self.0.len() == WAITING {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.0.pop_front()
    }
}
