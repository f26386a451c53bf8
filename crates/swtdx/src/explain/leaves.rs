//! Leaf numbers of SEAMCALL and TDCALL, and sub-functions of TDG.VP.VMCALL.

use tdx_abi::{GuestLeaf, HostLeaf, Interruption, LeafOperand, LeafRow, LeafWord, VmcallFunction};

use super::reading::Reading;

/// Reads RAX of a SEAMCALL.
pub fn read_host(rax: u64) -> Option<Reading> {
    read("SEAMCALL leaf", rax, HostLeaf(rax as u16).row())
}

/// Reads RAX of a TDCALL.
pub fn read_guest(rax: u64) -> Option<Reading> {
    read("TDCALL leaf", rax, GuestLeaf(rax as u16).row())
}

/// Reads a leaf's name, with dots.
pub fn named(name: &str) -> Option<Reading> {
    let host = HostLeaf::parse(name).and_then(|leaf| read_host(leaf.0.into()));
    host.or_else(|| GuestLeaf::parse(name).and_then(|leaf| read_guest(leaf.0.into())))
}

/// Whether the leaf has a handler and the version that was asked for.
pub fn is_known(reading: &Reading) -> bool {
    reading.facts.iter().all(|fact| fact.name != "refused")
}

fn read(kind: &'static str, rax: u64, row: Option<&LeafRow>) -> Option<Reading> {
    let row = row?;
    let word = LeafWord(rax);
    let mut reading = Reading::new(kind, row.name).with(
        "number",
        format!(
            "{} ({:#x}), version {}",
            row.number,
            row.number,
            word.version()
        ),
    );
    if rax >> 24 != 0 {
        reading = reading.with(
            "refused",
            format!(
                "TDX_OPERAND_INVALID(RAX): reserved bits {:#x}",
                rax & !0xFF_FFFF
            ),
        );
    } else if !row.implemented {
        reading = reading.with(
            "refused",
            "TDX_OPERAND_INVALID(RAX): module 1.5.01 has the number but no handler",
        );
    } else if !row.versions.contains(&word.version()) {
        let versions: Vec<String> = row.versions.iter().map(u8::to_string).collect();
        let text = format!(
            "TDX_OPERAND_INVALID(RAX): module 1.5.01 has version {}",
            versions.join(" and ")
        );
        reading = reading.with("refused", text);
    }
    reading = reading.with_if(row.implemented, "does", row.summary);
    for (name, operands) in [("in", row.inputs), ("out", row.outputs)] {
        let text: Vec<String> = operands.iter().map(operand).collect();
        reading = reading.with_if(!text.is_empty(), name, text.join(", "));
    }
    if let Some(states) = row.op_states {
        let states: Vec<&str> = states.iter().map(|s| s.name()).collect();
        reading = reading.with("op-states", states.join(" "));
    }
    if let Some(states) = row.sept_states {
        let states: Vec<&str> = states.iter().map(|s| s.name()).collect();
        reading = reading.with("S-EPT states", states.join(" "));
    }
    let interrupted = match row.interruption {
        Interruption::Never => "",
        Interruption::Resumable => "yes: TDX_INTERRUPTED_RESUMABLE, call again with what came back",
        Interruption::Restartable => "yes: TDX_INTERRUPTED_RESTARTABLE, call again from the start",
        Interruption::Reexecuted => "yes: the guest executes the TDCALL again",
    };
    reading = reading.with_if(!interrupted.is_empty(), "interruptible", interrupted);
    let locks: Vec<String> = row
        .locks
        .iter()
        .map(|lock| {
            format!(
                "{} ({})",
                lock.object,
                format!("{:?}", lock.mode).to_lowercase()
            )
        })
        .collect();
    reading = reading.with_if(!locks.is_empty(), "locks", locks.join("; "));
    let statuses: Vec<&str> = row.statuses.iter().filter_map(|s| s.name()).collect();
    Some(reading.with_if(!statuses.is_empty(), "own statuses", statuses.join(" ")))
}

fn operand(operand: &LeafOperand) -> String {
    match operand.format {
        "" => operand.to_string(),
        format if format == operand.name => operand.to_string(),
        format => format!("{operand} ({format})"),
    }
}

/// Reads R11 of a TDG.VP.VMCALL.
pub fn read_vmcall(r11: u64) -> Reading {
    let function = VmcallFunction(r11);
    let reading = Reading::new("TDG.VP.VMCALL sub-function", function);
    let Some(row) = function.row() else {
        return reading.with(
            "meaning",
            "unknown: not a sub-function of the guest-host communication interface",
        );
    };
    let list = |operands: &[tdx_abi::VmcallOperand]| {
        operands
            .iter()
            .map(|o| format!("{} {}", o.gpr, o.meaning))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let (inputs, outputs) = (list(row.inputs), list(row.outputs));
    reading
        .with("number", format!("{r11:#x} in R11, with R10 = 0"))
        .with_if(!inputs.is_empty(), "in", inputs)
        .with(
            "out",
            if outputs.is_empty() {
                "R10 status".to_owned()
            } else {
                format!("R10 status; {outputs}")
            },
        )
        .with(
            "needs",
            format!(
                "RCX mask with {} ({:#x})",
                row.needed().registers(),
                row.needed().0
            ),
        )
}
