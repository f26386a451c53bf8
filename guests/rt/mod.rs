//! What every freestanding guest needs: start-up from the TD's reset vector, TDCALL, traps, a console.
//!
//! A vCPU of a TD starts at 0xFFFFFFF0 in 32-bit protected mode with paging off (spec: guest-virtualization.md 1),
//! all of them at once. `start` brings the first to `guest_main` in long mode and parks the others at the mailbox.

// Each guest uses a part of it.
#![allow(dead_code)]

pub mod accept;
pub mod console;
pub mod hob;
pub mod layout;
pub mod mailbox;
mod memory_functions;
pub mod power;
pub mod sha384;
mod start;
pub mod tdcall;
pub mod trap;
pub mod vmcall;

#[allow(unused_imports)] // The direct-boot firmware wakes nobody.
pub use start::MAX_WOKEN;

use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::line(format_args!("guest panic: {info}"));
    vmcall::report_fatal_error(0x1, b"guest panic, see console")
}
