//! The direct-boot firmware: a small TDVF image that starts a Linux kernel given to it by the VMM.
//!
//! What it does, in order: reads the TD HOB, accepts all memory, measures HOB, ACPI tables, kernel, command
//! line and initrd into the RTMRs with an event log, fills in boot_params, jumps to the kernel's 64-bit entry.
//! The other processors wait at the mailbox until the kernel wakes them.
#![no_std]
#![no_main]

mod boot_params;
mod direct_boot;
mod event_log;
#[path = "../rt/mod.rs"]
mod rt;

use rt::accept::{self, Accepted};
use rt::hob::{Hobs, UNACCEPTED_MEMORY};
use rt::{console, vmcall};

use direct_boot::DirectBoot;
use event_log::{EventLog, Rtmr};

const HOB_LENGTH: usize = 0x4000;

fn guest_main(hob: u64, _gpa_width: u64) -> ! {
    // SAFETY: the HOB section is private memory that the VMM wrote before the TD was built.
    let hobs = Hobs::new(unsafe { core::slice::from_raw_parts(hob as *const u8, HOB_LENGTH) });
    let boot = match DirectBoot::find(&hobs) {
        Ok(boot) => boot,
        Err(why) => fail(why),
    };
    for range in hobs.resources().filter(|r| r.kind == UNACCEPTED_MEMORY) {
        let end = range.start.saturating_add(range.length);
        if let Err(status) = accept::range(range.start, end, &mut Accepted::default()) {
            console::line(format_args!(
                "accepting {:#x}..{end:#x}: {status:#x}",
                range.start
            ));
            fail("memory could not be accepted");
        }
    }
    let mut log = EventLog::at(boot.log);
    log.measure(Rtmr::R0, event_log::PLATFORM_CONFIG, "td_hob", hobs.bytes());
    log.measure(
        Rtmr::R0,
        event_log::PLATFORM_CONFIG,
        "acpi_tables",
        boot.acpi_tables(),
    );
    log.measure(Rtmr::R1, event_log::IPL, "kernel", boot.kernel());
    log.measure(Rtmr::R2, event_log::IPL, "cmdline", boot.command_line());
    log.measure(Rtmr::R2, event_log::IPL, "initrd", boot.initrd());
    match boot_params::prepare(&boot, &hobs) {
        Ok(entry) => entry.jump(),
        Err(why) => fail(why),
    }
}

/// Nothing wakes a processor into this program: the kernel brings its own code.
fn woken_main(_index: u64) -> ! {
    fail("a processor was woken without a kernel")
}

fn fail(why: &str) -> ! {
    console::line(format_args!("swtdx firmware: {why}"));
    vmcall::report_fatal_error(0x20, why.as_bytes())
}
