//! The code buffer: one anonymous file mapped twice, writable here and executable there, never both in one mapping.
#![expect(unsafe_code, reason = "maps memory and writes machine code into it")]

use std::io;
use std::ptr::NonNull;

pub struct Buffer {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
}

// SAFETY: both mappings belong to this value alone; the writable one is changed through `&mut self` only.
unsafe impl Send for Buffer {}
// SAFETY: nothing is changed through `&self`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `size` bytes of which the host backs what is written. The error says what the host refused.
    pub fn new(size: usize) -> Result<Buffer, String> {
        let refused = |what: &str| Err(format!("{what}: {}", io::Error::last_os_error()));
        // SAFETY: the name is a C string; the call touches no memory of ours.
        let file = unsafe { libc::memfd_create(c"translated".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return refused("memfd_create");
        }
        // SAFETY: the file was just made.
        if unsafe { libc::ftruncate(file, size as libc::off_t) } != 0 {
            let error = refused("ftruncate");
            // SAFETY: the file is this function's own.
            unsafe { libc::close(file) };
            return error;
        }
        let map = |access| {
            // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
            let at = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    size,
                    access,
                    libc::MAP_SHARED,
                    file,
                    0,
                )
            };
            (at != libc::MAP_FAILED)
                .then(|| NonNull::new(at.cast::<u8>()))
                .flatten()
        };
        let writable = map(libc::PROT_READ | libc::PROT_WRITE);
        let executable = map(libc::PROT_READ | libc::PROT_EXEC);
        let error = refused("the host maps no executable memory");
        // SAFETY: the mappings keep the file; the descriptor is this function's own.
        unsafe { libc::close(file) };
        match (writable, executable) {
            (Some(writable), Some(executable)) => Ok(Buffer {
                writable,
                executable,
                size,
            }),
            (one, other) => {
                for at in [one, other].into_iter().flatten() {
                    // SAFETY: a mapping of `size` bytes made above that nobody knows of.
                    unsafe { libc::munmap(at.as_ptr().cast(), size) };
                }
                error
            }
        }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// The address at which the byte at `offset` is executed.
    pub fn address(&self, offset: usize) -> u64 {
        assert!(offset <= self.size);
        self.executable.as_ptr() as u64 + offset as u64
    }

    /// Writes code.
    ///
    /// # Panics
    /// When it does not fit.
    pub fn write(&mut self, offset: usize, code: &[u8]) {
        assert!(offset <= self.size && code.len() <= self.size - offset);
        // SAFETY: inside the mapping, as just checked; `code` is a Rust slice and so lies elsewhere.
        unsafe {
            std::ptr::copy_nonoverlapping(
                code.as_ptr(),
                self.writable.as_ptr().add(offset),
                code.len(),
            );
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        for at in [self.writable, self.executable] {
            // SAFETY: a mapping of `size` bytes made in `new`; nobody runs code of a buffer that is dropped.
            unsafe { libc::munmap(at.as_ptr().cast(), self.size) };
        }
    }
}
