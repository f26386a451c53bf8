//! Prints the TDREPORT of the TD it runs in, as a guest's user space gets it from /dev/tdx_guest.
//!
//! Freestanding: built by rustc alone for the host's own target, with no C library, so that the initramfs needs
//! nothing but busybox beside it. System calls are made by hand (x86-64 Linux ABI).
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

const SYS_WRITE: usize = 1;
const SYS_OPEN: usize = 2;
const SYS_IOCTL: usize = 16;
const SYS_EXIT: usize = 60;

/// `_IOWR('T', 1, struct tdx_report_req)`: 64 bytes of REPORTDATA and 1024 bytes of TDREPORT.
const TDX_CMD_GET_REPORT0: usize = 0xC440_5401;

/// # Safety
/// The arguments must be what the system call `number` wants of them.
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result;
    // SAFETY: the kernel changes RAX, RCX, R11 and the memory that the caller vouches for.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            out("rcx") _, out("r11") _, options(nostack));
    }
    result
}

fn print(text: &[u8]) {
    // SAFETY: write(2) reads the slice.
    unsafe { syscall(SYS_WRITE, 1, text.as_ptr() as usize, text.len()) };
}

fn exit(status: usize) -> ! {
    loop {
        // SAFETY: exit(2) does not come back.
        unsafe { syscall(SYS_EXIT, status, 0, 0) };
    }
}

fn main() -> usize {
    let mut request = [0u8; 64 + 1024];
    for (byte, value) in request[..64].iter_mut().zip(0u8..) {
        *byte = value;
    }
    // SAFETY: the path ends in a NUL.
    let device = unsafe { syscall(SYS_OPEN, c"/dev/tdx_guest".as_ptr() as usize, 2, 0) };
    if device < 0 {
        print(b"SWTDX-REPORT none: /dev/tdx_guest cannot be opened\n");
        return 1;
    }
    // SAFETY: the buffer has the size that the request number encodes.
    let done = unsafe {
        syscall(
            SYS_IOCTL,
            device as usize,
            TDX_CMD_GET_REPORT0,
            request.as_mut_ptr() as usize,
        )
    };
    if done != 0 {
        print(b"SWTDX-REPORT none: TDX_CMD_GET_REPORT0 failed\n");
        return 1;
    }
    for line in request[64..].chunks(64) {
        print(b"SWTDX-REPORT ");
        for byte in line {
            let digits = b"0123456789abcdef";
            print(&[digits[(byte >> 4) as usize], digits[(byte & 15) as usize]]);
        }
        print(b"\n");
    }
    0
}

/// The kernel enters here with the stack 16-byte aligned; Rust wants it as after a call.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("call {}", "ud2", sym start)
}

extern "C" fn start() -> ! {
    exit(main())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}

/// # Safety
/// As C's memset.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller owns `count` bytes at `to`.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") count => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's memcpy.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller owns both ranges and they do not overlap.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _,
            options(nostack, preserves_flags));
    }
    to
}
