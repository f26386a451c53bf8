//! An ordinary program that calls the TDX module as a guest does, through the crate `tdx-tdcall`: for
//! `swtdx exec -- target/debug/examples/tdcall`. It knows nothing of swtdx.
#![forbid(unsafe_code)]

use std::fmt::Debug;

use tdx_tdcall::tdreport::{TdxReport, tdcall_report};
use tdx_tdcall::tdx::{
    TdxDigest, tdcall_accept_page, tdcall_extend_rtmr, tdcall_get_td_info, tdcall_get_ve_info,
    tdcall_sys_rd, tdcall_vm_read, tdvmcall_cpuid, tdvmcall_get_quote, tdvmcall_io_write_8,
    tdvmcall_mapgpa,
};

/// Metadata fields: MAJOR_VERSION of the module, GPAW's home CONFIG_FLAGS and NUM_VCPUS of the TD.
const MAJOR_VERSION: u64 = 0x0800_0001_0000_0004;
const NUM_VCPUS: u64 = 0x9010_0001_0000_0001;
const COM1: u16 = 0x3F8;

/// Pages of their own for buffers.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

fn main() {
    // A program that ends without TDX has been killed by SIGILL here.
    let info = say("TDG.VP.INFO", tdcall_get_td_info());
    println!(
        "  GPA width {}, attributes {:#x}, vCPU {} of {}",
        info.gpaw, info.attributes, info.vcpu_index, info.num_vcpus
    );
    println!(
        "TDG.SYS.RD {:x?}",
        tdcall_sys_rd(MAJOR_VERSION).map(|(_, value)| value)
    );
    println!(
        "TDG.VM.RD  {:x?}",
        tdcall_vm_read(NUM_VCPUS, 0).map(|(_, value)| value)
    );
    println!("TDG.VP.VEINFO.GET {:x?}", tdcall_get_ve_info());

    let digest = TdxDigest { data: [0x5A; 48] };
    say("TDG.MR.RTMR.EXTEND", tdcall_extend_rtmr(&digest, 2));
    let report = say("TDG.MR.REPORT", tdcall_report(&[0xA5; 64]));
    show(&report);

    let mut page = Box::new(Page([7; 4096]));
    let address = page.0.as_ptr() as u64;
    println!(
        "TDG.MEM.PAGE.ACCEPT of a page in use: {:x?}",
        tdcall_accept_page(address)
    );
    println!("  its bytes are still {:?}", &page.0[..4]);
    println!(
        "MapGPA to shared: {:x?}",
        tdvmcall_mapgpa(true, address, 4096)
    );
    println!("GetQuote: {:x?}", tdvmcall_get_quote(&mut page.0));
    let word = |at: usize| u64::from_le_bytes(page.0[at..at + 8].try_into().expect("8 bytes"));
    println!("  version {}, status {:#x}", word(0), word(8));
    println!(
        "MapGPA to private: {:x?}",
        tdvmcall_mapgpa(false, address, 4096)
    );
    println!("TDG.MEM.PAGE.ACCEPT: {:x?}", tdcall_accept_page(address));
    println!("  its bytes are now {:?}", &page.0[..4]);

    let cpuid = tdvmcall_cpuid(0x4000_0000, 0);
    println!("CPUID 0x40000000 of the VMM: EAX {:#x}", cpuid.eax);
    for byte in *b"a line on the VMM's serial port\n" {
        tdvmcall_io_write_8(COM1, byte);
    }
}

fn say<T, E: Debug>(call: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => {
            println!("{call} ok");
            value
        }
        Err(why) => {
            println!("{call} {why:x?}");
            std::process::exit(1)
        }
    }
}

fn show(report: &TdxReport) {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    println!("  type {:#x}", report.report_mac.report_type.r#type);
    println!("  REPORTDATA {}…", hex(&report.report_mac.report_data[..8]));
    println!("  MRTD   {}", hex(&report.td_info.mrtd));
    println!("  RTMR 2 {}", hex(&report.td_info.rtmr2));
}
