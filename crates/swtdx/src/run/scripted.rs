//! `--scripted`: a guest that is this Rust function instead of machine code, for runs without the CPU engine.
//!
//! It does what the embedded guest does: asks who it is, accepts memory, prints, converts a page, measures, reports,
//! and switches off.

use tdx_call::guest::{
    tdg_mem_page_accept, tdg_mr_report, tdg_mr_rtmr_extend, tdg_vp_info, tdg_vp_vmcall,
};
use tdx_call::{CallError, GpaMapping, TdxModuleArgs};
use tdx_platform::ScriptCpu;
use x86_arch::{Gpa, Gpr};

use super::report::hex;

/// R10 to R15.
const MASK: u16 = 0xFC00;
const IO: u64 = 30;
const HLT: u64 = 12;
const MAP_GPA: u64 = 0x10001;
const COM1: u64 = 0x3F8;
const SLEEP_CONTROL: u64 = 0x600;

/// RAM that nothing is loaded into: the first 2 MiB to be accepted, and pages for buffers.
const PLAYGROUND: u64 = 0xC0_0000;
const REPORT: u64 = PLAYGROUND;
const REPORT_DATA: u64 = PLAYGROUND + 0x1000;
const EXTENSION: u64 = PLAYGROUND + 0x2000;
const CONVERTED: u64 = PLAYGROUND + 0x3000;

/// The guest.
pub fn guest(cpu: &mut ScriptCpu) {
    let index = cpu.gpr(Gpr::Rsi);
    let done = match index {
        0 => first(cpu),
        _ => Ok(()),
    };
    if let Err(why) = done {
        let _ = print(cpu, &format!("the scripted guest gives up: {why}"));
    }
    loop {
        if index == 0 && write(cpu, SLEEP_CONTROL, 0x34).is_err() {
            return;
        }
        if vmcall(cpu, [HLT, 1, 0, 0, 0]).is_err() {
            return;
        }
    }
}

fn first(cpu: &mut ScriptCpu) -> Result<(), CallError> {
    print(cpu, "the scripted guest says hello")?;
    let info = tdg_vp_info(cpu)?;
    print(
        cpu,
        &format!(
            "TDG.VP.INFO: GPA width {}, attributes {:#x}, {} of {} vCPUs",
            info.gpaw, info.attributes, info.num_vcpus, info.max_vcpus
        ),
    )?;
    let accepted = tdg_mem_page_accept(cpu, GpaMapping::page_2m(Gpa::new(PLAYGROUND)))?;
    print(
        cpu,
        &format!("accepting 2 MiB at {PLAYGROUND:#x}: {accepted}"),
    )?;
    convert(cpu, 1 << (info.gpaw - 1))?;
    report(cpu)
}

/// One page to shared memory and back.
fn convert(cpu: &mut ScriptCpu, shared: u64) -> Result<(), CallError> {
    let page = Gpa::new(CONVERTED);
    let alias = Gpa::new(CONVERTED | shared);
    let status = vmcall(cpu, [MAP_GPA, alias.raw(), 4096, 0, 0])?[0];
    let mut seen = [0; 8];
    // An event would be a #VE that this script has no handler for; what was read then stays zero.
    let _ = cpu.store(alias, b"shared!!");
    let _ = cpu.load(alias, &mut seen);
    let back = vmcall(cpu, [MAP_GPA, page.raw(), 4096, 0, 0])?[0];
    tdg_mem_page_accept(cpu, GpaMapping::page_4k(page))?;
    let mut private = [0; 8];
    let _ = cpu.load(page, &mut private);
    print(
        cpu,
        &format!(
            "MapGPA {status:#x} and back {back:#x}: the shared page held {:?}, private again {private:?}",
            String::from_utf8_lossy(&seen)
        ),
    )
}

/// RTMR 2, then a TDREPORT, printed.
fn report(cpu: &mut ScriptCpu) -> Result<(), CallError> {
    let _ = cpu.store(Gpa::new(EXTENSION), &[0x5A; 48]);
    let _ = cpu.store(Gpa::new(REPORT_DATA), &[0xA5; 64]);
    tdg_mr_rtmr_extend(cpu, Gpa::new(EXTENSION), 2)?;
    tdg_mr_report(cpu, Gpa::new(REPORT), Gpa::new(REPORT_DATA), 0)?;
    let mut report = [0; 1024];
    let _ = cpu.load(Gpa::new(REPORT), &mut report);
    for line in report.chunks(64) {
        print(cpu, &format!("SWTDX-REPORT {}", hex(line)))?;
    }
    Ok(())
}

fn print(cpu: &mut ScriptCpu, line: &str) -> Result<(), CallError> {
    for byte in line.bytes().chain([b'\n']) {
        write(cpu, COM1, byte.into())?;
    }
    Ok(())
}

/// OUT of one byte.
fn write(cpu: &mut ScriptCpu, port: u64, value: u64) -> Result<(), CallError> {
    vmcall(cpu, [IO, 1, 1, port, value]).map(|_| ())
}

/// TDVMCALL with R10 = 0 and R11 to R15; gives R10 and R11 back.
fn vmcall(cpu: &mut ScriptCpu, r11_to_r15: [u64; 5]) -> Result<[u64; 2], CallError> {
    let [r11, r12, r13, r14, r15] = r11_to_r15;
    let mut args = TdxModuleArgs {
        r11,
        r12,
        r13,
        r14,
        r15,
        ..Default::default()
    };
    tdg_vp_vmcall(cpu, MASK, &mut args)?;
    Ok([args.r10, args.r11])
}
