//! What a DEBUG TD's vCPU looked like when it died.

use tdx_call::{HostMemory, SeamcallLp};
use tdx_host::debug::{DebugContext, DebugMemory, DebugReg};
use tdx_host::{Host, Td, Vcpu};
use x86_arch::Gpr;
use x86_arch::vmx::Seg;

use super::report::hex;

/// Registers, the bytes at RIP and the top of the stack, as lines. What cannot be read is left out.
pub fn lines<L: SeamcallLp, M: HostMemory>(
    host: &Host<M>,
    td: &Td,
    vcpu: &Vcpu,
    lp: &mut L,
) -> Vec<String> {
    let mut context = DebugContext::new();
    let mut read = |lp: &mut L, reg| context.get(lp, vcpu, reg).ok();
    let mut lines = Vec::new();
    let rows: [&[(&str, DebugReg)]; 3] = [
        &[
            ("RIP", DebugReg::Rip),
            ("RFLAGS", DebugReg::Rflags),
            ("RSP", DebugReg::Gpr(Gpr::Rsp)),
            ("CR2", DebugReg::Cr2),
        ],
        &[
            ("CR0", DebugReg::Cr0),
            ("CR3", DebugReg::Cr3),
            ("CR4", DebugReg::Cr4),
            ("EFER", DebugReg::Efer),
        ],
        &[
            (
                "CS",
                DebugReg::Segment(Seg::Cs, tdx_host::debug::SegPart::Selector),
            ),
            (
                "SS",
                DebugReg::Segment(Seg::Ss, tdx_host::debug::SegPart::Selector),
            ),
            ("IDTR", DebugReg::IdtrBase),
            ("GDTR", DebugReg::GdtrBase),
        ],
    ];
    for row in rows {
        let words: Vec<String> = row
            .iter()
            .filter_map(|&(name, reg)| Some(format!("{name} {:#x}", read(lp, reg)?)))
            .collect();
        lines.push(words.join("  "));
    }
    for four in Gpr::ALL.chunks(4) {
        let words: Vec<String> = four
            .iter()
            .filter_map(|&reg| Some(format!("{reg} {:#x}", read(lp, DebugReg::Gpr(reg))?)))
            .collect();
        lines.push(words.join("  "));
    }
    let memory = DebugMemory { host, td };
    let rip = read(lp, DebugReg::Rip).unwrap_or(0);
    let rsp = read(lp, DebugReg::Gpr(Gpr::Rsp)).unwrap_or(0);
    for (name, at, len) in [("code", rip, 16), ("stack", rsp, 128)] {
        let mut bytes = vec![0; len];
        if let Ok(got) = memory.read(lp, vcpu, &mut context, at, &mut bytes) {
            lines.push(format!("{name} at {at:#x}: {}", hex(&bytes[..got])));
        }
    }
    lines
}
