//! Waking a parked processor (ACPI 6.4, 5.2.12.19 "Multiprocessor Wakeup Structure").

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The mailbox as the ACPI specification lays it out.
#[repr(C)]
struct Mailbox {
    command: AtomicU16,
    reserved: u16,
    apic_id: AtomicU32,
    wakeup_vector: AtomicU64,
}

unsafe extern "C" {
    static mailbox: Mailbox;
    fn wake_with_stack();
}

/// Wakes vCPU `index`, which runs `woken_main`; returns when it has taken the command.
pub fn wake(index: u32) {
    // SAFETY: the assembly reserves a zeroed page for it, and its fields are atomics.
    let page = unsafe { &mailbox };
    page.apic_id.store(index, Ordering::Relaxed);
    page.wakeup_vector
        .store(wake_with_stack as *const () as u64, Ordering::Relaxed);
    page.command.store(1, Ordering::Release);
    while page.command.load(Ordering::Acquire) != 0 {
        core::hint::spin_loop();
    }
}
