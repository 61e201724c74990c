//! The buffer that SQLite wants filled.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::slice;

/// Memory of SQLite's, which is not set before something has been read into it.
#[derive(Debug)]
pub(in crate::vfs) struct ReadBuffer<'a> {
    memory: &'a mut [MaybeUninit<u8>],
    is_set: bool,
}

impl<'a> ReadBuffer<'a> {
    /// # Safety
    /// `start` points to `amount` bytes that nobody else uses during `'a`.
    pub(super) unsafe fn new(start: *mut c_void, amount: c_int) -> Self {
        let size = usize::try_from(amount).unwrap_or(0);
        Self {
            // SAFETY: the caller's promise; the bytes need not be set.
            memory: unsafe { slice::from_raw_parts_mut(start.cast(), size) },
            is_set: false,
        }
    }

    pub(in crate::vfs) fn of(data: &'a mut [u8]) -> Self {
        let (start, size) = (data.as_mut_ptr(), data.len());
        Self {
            // SAFETY: the bytes are borrowed for `'a`, and only ever set, by `bytes` and `filled`.
            memory: unsafe { slice::from_raw_parts_mut(start.cast(), size) },
            is_set: true,
        }
    }

    /// The bytes that have been read; zeros if none have.
    pub(in crate::vfs) fn bytes(&mut self) -> &mut [u8] {
        if !self.is_set {
            self.memory.fill(MaybeUninit::new(0));
            self.is_set = true;
        }
        // SAFETY: all bytes are set.
        unsafe { self.memory.assume_init_mut() }
    }

    pub(super) fn start(&mut self) -> *mut c_void {
        self.memory.as_mut_ptr().cast()
    }

    pub(super) fn len(&self) -> usize {
        self.memory.len()
    }

    /// # Safety
    /// All bytes have been set.
    pub(super) unsafe fn filled(&mut self) {
        self.is_set = true;
    }
}
