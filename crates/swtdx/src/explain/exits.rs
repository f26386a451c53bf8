//! TD exits: reasons, qualifications and extended qualifications (SDM volume 3, 28.2.1; TDH.VP.ENTER).

use tdx_abi::{
    ExtendedExitQualification, ExtendedExitQualificationType, ReportedSeptState, TdExitReason,
    level_name,
};
use x86_arch::{ExitReason, InterruptionInfo, Qualification};

use super::reading::Reading;

/// Reads a small number as an exit reason, if the manual names it.
pub fn read_reason(raw: u64) -> Option<Reading> {
    let basic = ExitReason(raw as u16);
    let word = TdExitReason(raw);
    (basic.name().is_some() && raw <= 0xFFFF && word.unnamed() == 0)
        .then(|| Reading::new("exit reason", basic))
}

/// Reads an exit reason's name.
pub fn named(name: &str) -> Option<Reading> {
    let reason = ExitReason::ALL
        .iter()
        .find(|reason| reason.name() == Some(name))?;
    Some(
        Reading::new("exit reason", reason)
            .with("number", format!("{} ({:#x})", reason.0, reason.0)),
    )
}

/// Reads an exit: RAX bits 31:0, and RCX and RDX if given.
pub fn read(reason: u64, qualification: Option<u64>, extended: Option<u64>) -> Vec<Reading> {
    // The whole of RAX may be given.
    let word = TdExitReason(reason & 0xFFFF_FFFF);
    let basic = ExitReason(word.basic_reason() as u16);
    let mut reading =
        Reading::new("TD exit", basic).with("number", format!("{} ({:#x})", basic.0, basic.0));
    let flags = word.with_basic_reason(0);
    reading = reading.with_if(flags.0 != 0, "flags", flags);
    if let Some(qualification) = qualification {
        let low = qualification & 0xFFFF_FFFF;
        reading = reading.with(
            "qualification",
            format!("{low:#x}: {}", describe_qualification(basic, low)),
        );
        reading = reading.with_if(
            qualification >> 32 != 0,
            "VM",
            format!("{}", qualification >> 32 & 3),
        );
    }
    let mut readings = vec![reading];
    readings.extend(extended.map(read_extended));
    readings
}

/// Bits 31:0 of a qualification in words.
fn describe_qualification(reason: ExitReason, bits: u64) -> String {
    match reason {
        // Not the processor's word but the module's: the mask that TDG.VP.VMCALL was given.
        ExitReason::TDCALL => format!(
            "TDG.VP.VMCALL shows {}",
            tdx_abi::TdvmcallControl(bits).registers()
        ),
        _ => Qualification { reason, bits }.to_string(),
    }
}

/// Reads interruption information: R9 of an asynchronous exit.
pub fn read_interruption(raw: u64) -> Reading {
    let info = InterruptionInfo(raw as u32);
    let reading = Reading::new("interruption information", info);
    let unknown = raw & !0x8000_1FFF;
    reading
        .with("vector", info.vector())
        .with_if(raw >> 12 & 1 != 0, "NMI unblocking", "due to IRET")
        .with_if(unknown != 0, "unknown bits", format!("{unknown:#x}"))
}

/// Reads an extended exit qualification.
pub fn read_extended(raw: u64) -> Reading {
    use ExtendedExitQualificationType as Type;
    let word = ExtendedExitQualification(raw);
    let kind = word.type_of();
    let title = kind.map_or(format!("unknown type {}", word.kind()), |kind| {
        kind.name().to_owned()
    });
    let mut reading = Reading::new("extended exit qualification", title);
    if let Some(Type::Accept | Type::GpaDetails | Type::AttrWr) = kind {
        let info = word.sept_info();
        let level = |level: u32| level_name(level as u8).unwrap_or("no such level");
        let state = match ReportedSeptState::from_raw(info.err_sept_state() as u8) {
            Some(state) => state.to_string(),
            None => format!("unknown state {:#04x}", info.err_sept_state()),
        };
        reading = reading
            .with(
                "asked for",
                format!(
                    "level {} ({})",
                    info.req_sept_level(),
                    level(info.req_sept_level())
                ),
            )
            .with(
                "found",
                format!(
                    "{state} at level {} ({})",
                    info.err_sept_level(),
                    level(info.err_sept_level())
                ),
            )
            .with(
                "leaf",
                if info.err_sept_is_leaf() != 0 {
                    "yes"
                } else {
                    "no"
                },
            )
            .with_if(
                info.vm_index() != 0,
                "VM",
                format!("L2 VM {}", info.vm_index()),
            )
            .with_if(
                info.unnamed() != 0,
                "unknown bits",
                format!("{:#x} of INFO", info.unnamed()),
            );
    } else {
        reading = reading.with_if(word.info() != 0, "info", format!("{:#x}", word.info()));
    }
    let meaning = match kind {
        Some(Type::None) => "nothing beyond the exit itself",
        Some(Type::Accept) => "the guest's TDG.MEM.PAGE.ACCEPT found no page it could accept",
        Some(Type::GpaDetails) => "what the Secure EPT holds for the address",
        Some(Type::TdEntryMsrLoadFailure) => "a guest MSR could not be loaded at TD entry",
        Some(Type::TdEntryXstateLoadFailure) => {
            "the guest's extended state could not be loaded at TD entry"
        }
        Some(Type::AttrWr) => "the guest's TDG.MEM.PAGE.ATTR.WR found no page it could change",
        Some(Type::PendingEptViolation) => "the guest touched a page it has not accepted",
        None => "unknown: not a type of module 1.5.01",
    };
    reading.with("meaning", meaning).with_if(
        word.unnamed() != 0,
        "unknown bits",
        format!("{:#x}", word.unnamed()),
    )
}
