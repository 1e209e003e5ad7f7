// SPDX-License-Identifier: GPL-2.0

//! SRCU, as far as its contract goes: `synchronize` waits for the readers that have entered before
//! it, and for no others; who enters later sees what was written before it. A reader may enter
//! while it waits, so that there need not be a moment without any.

use loom::sync::{Condvar, Mutex};

/// A domain.
pub struct Srcu {
    state: Mutex<State>,
    left: Condvar,
}

struct State {
    /// Which count new readers are in.
    now: usize,
    readers: [u32; 2],
}

impl Default for Srcu {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                now: 0,
                readers: [0; 2],
            }),
            left: Condvar::new(),
        }
    }
}

impl Srcu {
    /// Runs `section` as a reader.
    pub fn read<T>(&self, section: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock().expect("no panic");
        let mine = state.now;
        state.readers[mine] += 1;
        drop(state);
        let result = section();
        let mut state = self.state.lock().expect("no panic");
        state.readers[mine] -= 1;
        if state.readers[mine] == 0 && mine != state.now {
            self.left.notify_all();
        }
        result
    }

    /// Waits for the readers of now. One at a time.
    pub fn synchronize(&self) {
        let mut state = self.state.lock().expect("no panic");
        let old = state.now;
        state.now = 1 - old;
        assert_eq!(state.readers[state.now], 0, "nobody else synchronizes");
        while state.readers[old] != 0 {
            state = self.left.wait(state).expect("no panic");
        }
    }
}
