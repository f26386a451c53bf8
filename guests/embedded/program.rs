//! What the embedded guest does, step by step; each step prints a line.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::rt::accept::{self, Accepted};
use crate::rt::hob::{Hobs, UNACCEPTED_MEMORY};
use crate::rt::layout::SHARED_WINDOW;
use crate::rt::tdcall::{MR_REPORT, MR_RTMR_EXTEND, Registers, VP_INFO, tdcall};
use crate::rt::{MAX_WOKEN, console, mailbox, power, vmcall};

const HOB_LENGTH: usize = 0x4000;

/// Counted up by every processor that the first one wakes.
#[unsafe(no_mangle)]
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// A value for a debugger to look at and to change: the guest prints it.
#[unsafe(no_mangle)]
static GREETING: AtomicU64 = AtomicU64::new(2023);

#[repr(C, align(1024))]
struct Report([u8; 1024]);
#[repr(C, align(64))]
struct Line([u8; 64]);

static mut REPORT: Report = Report([0; 1024]);
static mut REPORT_DATA: Line = Line([0; 64]);
static mut EXTENSION: Line = Line([0; 64]);
static mut SHARED_TABLES: Tables = Tables([[0; 512]; 2]);

#[repr(C, align(4096))]
struct Tables([[u64; 512]; 2]);

unsafe extern "C" {
    static mut pml4: [u64; 512];
}

pub fn guest_main(hob: u64, gpa_width: u64) -> ! {
    console::line(format_args!("swtdx embedded guest"));
    let vcpus = vp_info(gpa_width);
    // SAFETY: the HOB section is ours from the start, HOB_LENGTH long, and nobody writes it any more.
    let hobs = Hobs::new(unsafe { core::slice::from_raw_parts(hob as *const u8, HOB_LENGTH) });
    let free = accept_memory(&hobs);
    cpuid_by_ve();
    greeting();
    if let Some(page) = free {
        share_and_take_back(page, gpa_width);
    }
    wake_others(vcpus);
    measure_and_report();
    console::line(format_args!("guest done, powering off"));
    power::off()
}

/// Asks the module where this vCPU runs; gives the number of vCPUs.
fn vp_info(gpa_width: u64) -> u32 {
    let mut regs = Registers::default();
    let status = tdcall(VP_INFO, &mut regs);
    if status != 0 {
        console::line(format_args!("TDG.VP.INFO failed: {status:#x}"));
        vmcall::report_fatal_error(0x10, b"TDG.VP.INFO failed");
    }
    let vcpus = regs.r8 as u32;
    console::line(format_args!(
        "TDG.VP.INFO: GPA width {gpa_width}, attributes {:#x}, {vcpus} of {} vCPUs, this is {}",
        regs.rdx,
        regs.r8 >> 32,
        regs.r9 as u32
    ));
    vcpus
}

/// Accepts what the HOB calls unaccepted; gives one accepted page to play with.
fn accept_memory(hobs: &Hobs<'_>) -> Option<u64> {
    let mut accepted = Accepted::default();
    let mut free = None;
    for range in hobs.resources().filter(|r| r.kind == UNACCEPTED_MEMORY) {
        let end = range.start.saturating_add(range.length);
        if let Err(status) = accept::range(range.start, end, &mut accepted) {
            console::line(format_args!(
                "accepting {:#x}..{end:#x} failed: {status:#x}",
                range.start
            ));
            vmcall::report_fatal_error(0x11, b"memory could not be accepted");
        }
        // The shared window reaches 1 GiB; the last page of a range is nobody's.
        if end <= 1 << 30 {
            free = Some(end - 4096);
        }
    }
    console::line(format_args!(
        "accepted {} KiB in 2 MiB pages, {} KiB in 4 KiB pages",
        accepted.large >> 10,
        accepted.small >> 10
    ));
    free
}

/// CPUID 0x21 is answered by the module, CPUID 0x40000000 arrives as a #VE and is asked of the VMM.
fn cpuid_by_ve() {
    let module = __cpuid_count(0x21, 0);
    let vmm = __cpuid_count(0x4000_0000, 0);
    let mut name = [0u8; 12];
    for (bytes, word) in name
        .chunks_exact_mut(4)
        .zip([module.ebx, module.edx, module.ecx])
    {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let name = core::str::from_utf8(&name).unwrap_or("?");
    console::line(format_args!(
        "CPUID 0x21: {name:?}, CPUID 0x40000000 by #VE: EAX {:#x}",
        vmm.eax
    ));
    let status: u8;
    // SAFETY: reading the line status of the serial port; it arrives as a #VE.
    unsafe { asm!("in al, dx", in("dx") 0x3FDu16, out("al") status, options(nomem, nostack)) };
    console::line(format_args!("IN from port 0x3fd by #VE: {status:#x}"));
}

/// A function of its own, so that a debugger can stop here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn greeting() {
    console::line(format_args!(
        "greeting {}",
        GREETING.load(Ordering::Relaxed)
    ));
}

/// Makes one page shared, writes it through the shared alias, and makes it private again.
fn share_and_take_back(page: u64, gpa_width: u64) {
    let shared_bit = 1u64 << (gpa_width - 1);
    shared_window(shared_bit);
    let check = |what: &str, result: Result<(), u64>| {
        if let Err(status) = result {
            console::line(format_args!("{what} failed: {status:#x}"));
            vmcall::report_fatal_error(0x12, b"memory conversion failed");
        }
    };
    check("MapGPA to shared", vmcall::map_gpa(page | shared_bit, 4096));
    let alias = (SHARED_WINDOW + page) as *mut u64;
    // SAFETY: the page is RAM that nothing else uses, mapped by the shared window.
    let seen = unsafe {
        alias.write_volatile(0x5348_4152_4544);
        alias.read_volatile()
    };
    check("MapGPA to private", vmcall::map_gpa(page, 4096));
    check(
        "accepting it again",
        accept::range(page, page + 4096, &mut Accepted::default()),
    );
    // SAFETY: the page is private RAM again.
    let private = unsafe { (page as *const u64).read_volatile() };
    console::line(format_args!(
        "shared page {page:#x} held {seen:#x}; private again it holds {private:#x}"
    ));
}

/// Maps the first GiB's shared half at SHARED_WINDOW.
fn shared_window(shared_bit: u64) {
    // SAFETY: only the first vCPU comes here, once; the entries that are written were not present.
    unsafe {
        let tables = &mut *(&raw mut SHARED_TABLES);
        let [directory_pointers, directory] = &mut tables.0;
        for (entry, page) in directory.iter_mut().zip(0u64..) {
            *entry = page << 21 | shared_bit | 0x83;
        }
        directory_pointers[0] = directory.as_ptr() as u64 | 3;
        let top = &raw mut pml4;
        (*top)[(SHARED_WINDOW >> 39) as usize] = directory_pointers.as_ptr() as u64 | 3;
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack));
    }
}

/// Wakes the other processors one after the other; each prints a line and counts itself.
fn wake_others(vcpus: u32) {
    let others = vcpus.saturating_sub(1).min(MAX_WOKEN as u32);
    for index in 1..=others {
        mailbox::wake(index);
        while WOKEN.load(Ordering::Acquire) < index.into() {
            core::hint::spin_loop();
        }
    }
    console::line(format_args!(
        "{} processors ran",
        1 + WOKEN.load(Ordering::Acquire)
    ));
}

/// Where a woken processor begins.
pub fn woken_main(index: u64) -> ! {
    let mut regs = Registers::default();
    tdcall(VP_INFO, &mut regs);
    console::line(format_args!(
        "vCPU {index} woke up, TDG.VP.INFO calls it {}",
        regs.r9 as u32
    ));
    WOKEN.fetch_add(1, Ordering::AcqRel);
    loop {
        // The first processor powers the machine off.
        vmcall::hlt(true);
    }
}

/// Extends RTMR 2 and prints what the TDREPORT says of it.
fn measure_and_report() {
    // SAFETY: only the first vCPU comes here, once.
    let (report, data, extension) = unsafe {
        (
            &mut *(&raw mut REPORT),
            &mut *(&raw mut REPORT_DATA),
            &mut *(&raw mut EXTENSION),
        )
    };
    for (byte, value) in extension
        .0
        .iter_mut()
        .zip(b"an event of the embedded guest, 48 bytes of digest")
    {
        *byte = *value;
    }
    let mut regs = Registers {
        rcx: extension.0.as_ptr() as u64,
        rdx: 2,
        ..Default::default()
    };
    let extended = tdcall(MR_RTMR_EXTEND, &mut regs);
    for (byte, value) in data.0.iter_mut().zip(0u8..) {
        *byte = value;
    }
    let mut regs = Registers {
        rcx: report.0.as_mut_ptr() as u64,
        rdx: data.0.as_ptr() as u64,
        ..Default::default()
    };
    let reported = tdcall(MR_REPORT, &mut regs);
    if extended != 0 || reported != 0 {
        console::line(format_args!(
            "RTMR.EXTEND {extended:#x}, MR.REPORT {reported:#x}"
        ));
        vmcall::report_fatal_error(0x13, b"no report");
    }
    // TDINFO at 512: MRTD at 16, RTMR 2 at 208 + 2 * 48.
    console::line(format_args!("MRTD   {:02x}", Hex(&report.0[528..576])));
    console::line(format_args!("RTMR 2 {:02x}", Hex(&report.0[816..864])));
    for line in report.0.chunks(64) {
        console::line(format_args!("SWTDX-REPORT {:02x}", Hex(line)));
    }
}

/// Bytes as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl core::fmt::LowerHex for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
