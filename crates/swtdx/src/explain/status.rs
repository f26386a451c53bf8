//! Completion statuses.

use tdx_abi::{DetailsKind, GuestLeaf, HostLeaf, LeafRow, OperandId, Status};
use x86_arch::ExitReason;

use super::reading::Reading;

/// Reads a completion status: what RAX holds after a SEAMCALL or TDCALL.
pub fn read(status: Status) -> Reading {
    let mut reading = Reading::new("completion status", format!("{status}"));
    let class = status.class_name().unwrap_or("unknown");
    reading = reading
        .with("value", format!("{:#018x}", status.raw()))
        .with(
            "class",
            format!(
                "{class} ({:#04x}), code {:#04x}",
                status.class(),
                status.details_l1()
            ),
        )
        .with("kind", status.kind().name())
        .with_if(
            status.raw() & Status::FATAL != 0,
            "fatal",
            "yes: the TD is in its fatal state",
        )
        .with_if(
            status.raw() & 1 << 60 != 0,
            "hint",
            "HOST_RECOVERABILITY_HINT is set",
        );
    let reserved = status.raw() & 0x0FFF_0000_0000_0000;
    reading = reading.with_if(reserved != 0, "unknown bits", format!("{reserved:#x}"));
    let Some(row) = status.row() else {
        return reading.with("meaning", "unknown: not a status of module 1.5.01");
    };
    if let Some(details) = details(status, row.details) {
        reading = reading.with("details", details);
    }
    reading = reading
        .with("meaning", row.meaning)
        .with("advice", row.advice.text());
    let leaves = leaves_that_name(row.status);
    reading.with_if(!leaves.is_empty(), "from", leaves)
}

/// What bits 31:0 say.
fn details(status: Status, kind: DetailsKind) -> Option<String> {
    let details = status.details();
    let [byte0, byte1, byte2, _] = details.to_le_bytes();
    Some(match kind {
        // Operand 0 is RAX, which nothing but OPERAND_INVALID blames; a bare name says nothing of an operand.
        DetailsKind::Operand if details == 0 && status.code() != Status::OPERAND_INVALID => {
            return None;
        }
        DetailsKind::Operand => match OperandId(details).name() {
            Some(name) => format!("operand {name} ({details:#x})"),
            None => format!("operand {details:#x}, unknown"),
        },
        _ if details == 0 => return None,
        DetailsKind::Msr => format!("MSR {details:#x}"),
        DetailsKind::CpuidLeaf => format!("CPUID leaf {details:#x}"),
        DetailsKind::ExitReason => format!("exit reason {:?}", ExitReason(details as u16)),
        DetailsKind::Tdmr => format!("TDMR {byte0}; second number {byte1}, third {byte2}"),
        DetailsKind::Smrr => format!("SMRR {byte0}, CMR {byte1}"),
        DetailsKind::SeptLevel => format!("Secure EPT level {details}"),
        DetailsKind::VmAndLevel => format!(
            "L2 VM {}, Secure EPT level {}",
            details >> 16,
            details & 0xFFFF
        ),
        DetailsKind::Index => format!("index {details}"),
        DetailsKind::Plain => format!("{details:#x}"),
    })
}

/// The leaves whose own handler names a status; the common ones, which nearly all may return, are not listed.
fn leaves_that_name(status: Status) -> String {
    let rows = HostLeaf::ALL
        .iter()
        .filter_map(|l| l.row())
        .chain(GuestLeaf::ALL.iter().filter_map(|l| l.row()));
    let names: Vec<&str> = rows
        .filter(|row: &&LeafRow| row.statuses.contains(&status))
        .map(|row| row.name)
        .collect();
    match names.len() {
        0 => String::new(),
        1..=12 => names.join(", "),
        count => format!("{count} leaves"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_without_details_blames_no_operand() {
        let names = |status: Status| {
            let facts = read(status).facts;
            facts.iter().any(|fact| fact.name == "details")
        };
        assert!(!names(Status::OPERAND_BUSY));
        assert!(names(Status::OPERAND_BUSY.with_operand(OperandId::TDR)));
        assert!(names(Status::OPERAND_INVALID), "operand 0 is RAX");
    }
}
