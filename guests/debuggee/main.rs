//! A guest for debuggers: it raises #BP and #DB for itself, on every processor at once, and counts what its own
//! handlers get; and it has one place for every kind of instruction that is worth a single step.
#![no_std]
#![no_main]

mod own_exceptions;
#[path = "../rt/mod.rs"]
mod rt;
mod steps;

use core::sync::atomic::{AtomicU64, Ordering};

use rt::tdcall::{Registers, VP_INFO, tdcall};
use rt::{MAX_WOKEN, console, mailbox, power, vmcall};

/// How often each processor raises each of its exceptions. A debugger may change it.
#[unsafe(no_mangle)]
static ROUNDS: AtomicU64 = AtomicU64::new(10);
/// Processors that are through.
static DONE: AtomicU64 = AtomicU64::new(0);

fn guest_main(_hob: u64, _gpa_width: u64) -> ! {
    console::line(format_args!("debuggee"));
    let mut regs = Registers::default();
    tdcall(VP_INFO, &mut regs);
    let vcpus = (regs.r8 as u32).min(MAX_WOKEN as u32);
    own_exceptions::install(0);
    for index in 1..vcpus {
        mailbox::wake(index);
    }
    own_exceptions::raise(0);
    DONE.fetch_add(1, Ordering::AcqRel);
    while DONE.load(Ordering::Acquire) < vcpus.into() {
        core::hint::spin_loop();
    }
    own_exceptions::tell(vcpus.into());
    if vcpus > 1 {
        steps::all();
    }
    console::line(format_args!("debuggee done"));
    power::off()
}

fn woken_main(index: u64) -> ! {
    own_exceptions::install(index as usize);
    own_exceptions::raise(index);
    DONE.fetch_add(1, Ordering::AcqRel);
    if index == 1 {
        steps::wake_first();
    }
    loop {
        vmcall::hlt(true);
    }
}

/// Every processor comes by once in a round: a place for a breakpoint that many hit.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn checkpoint(vcpu: u64, round: u64) -> u64 {
    core::hint::black_box(vcpu << 32 | round)
}
