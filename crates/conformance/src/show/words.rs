//! Registers by the names that the leaf gives them, and values in the words of their format.

use std::fmt;

use coco_regs::{ExitKind, ExitWords, GprFile};
use serde::Serialize;
use tdx_abi::{
    FieldContext, FieldId, GpaMapping, HostLeaf, LeafOperand, ReportedSeptState, SeptEntryInfo,
    Status, TdvmcallControl, VmcallFunction, metadata,
};
use x86_arch::{ExitReason, Gpr};

/// A named value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Word {
    pub name: String,
    /// The value in words.
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
}

impl Word {
    pub fn plain(name: &str, value: u64) -> Word {
        Word {
            name: name.to_owned(),
            text: format!("{value:#x}"),
            value: Some(value),
        }
    }
    pub fn text(name: &str, text: String) -> Word {
        Word {
            name: name.to_owned(),
            text,
            value: None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.is_empty() {
            true => f.write_str(&self.text),
            false => write!(f, "{} {}", self.name, self.text),
        }
    }
}

/// The operands of a call: those that the leaf names, as far as a register is known. An unknown leaf's registers, other
/// than RAX, stand by themselves.
pub(super) fn call_words(
    operands: Option<&[LeafOperand]>,
    value: impl Fn(Gpr) -> Option<u64>,
) -> Vec<Word> {
    let registers = |mask: u16| {
        let gprs = Gpr::ALL
            .into_iter()
            .filter(move |reg| mask >> reg.index() & 1 != 0);
        gprs.filter_map(|reg| Some((reg, value(reg)?)))
    };
    let Some(operands) = operands else {
        let all = registers(0xFFFE).filter(|(_, value)| *value != 0);
        return all
            .map(|(reg, value)| Word::plain(reg.name(), value))
            .collect();
    };
    let mut words = Vec::new();
    for operand in operands {
        match operand.gprs().count_ones() {
            1 => {
                // Of L2 VMs there are usually none.
                let shown = |value: u64| value != 0 || !operand.name.starts_with("L2_");
                let given = registers(operand.gprs()).filter(|(_, value)| shown(*value));
                words.extend(given.map(|(_, value)| word(operand, value)));
            }
            _ => {
                let given = registers(operand.gprs()).filter(|(_, value)| *value != 0);
                words.extend(given.map(|(reg, value)| Word::plain(reg.name(), value)));
            }
        }
    }
    words
}

/// A value under its operand's name. `_HPA` goes without saying.
fn word(operand: &LeafOperand, value: u64) -> Word {
    let name = operand
        .name
        .trim_end_matches("_AND_FLAGS")
        .trim_end_matches("_HPA");
    let text = match operand.format {
        "GPA_MAPPING" | "GPA_MAPPING_AND_FLAGS" => GpaMapping(value).to_string(),
        "MD_FIELD_ID" => field(value),
        "TDVMCALL_CONTROL" => TdvmcallControl(value).registers().to_string(),
        "SEPT_ENTRY_ARCH_INFO" if operand.registers == "RDX" => sept_info(value),
        _ => format!("{value:#x}"),
    };
    Word {
        name: name.to_owned(),
        text,
        value: Some(value),
    }
}

/// A metadata field by name, if its context or its place in exactly one names it.
fn field(raw: u64) -> String {
    let id = FieldId(raw);
    let contexts = match id.context() {
        Some(context) => vec![context],
        None => FieldContext::ALL.to_vec(),
    };
    let mut found = contexts
        .iter()
        .filter_map(|context| metadata::find(*context, id));
    match (found.next(), found.next()) {
        (Some(found), None) if !id.is_null() => format!("{found} ({raw:#x})"),
        _ => format!("{raw:#x}"),
    }
}

fn sept_info(raw: u64) -> String {
    let info = SeptEntryInfo(raw);
    match ReportedSeptState::from_raw(info.state() as u8) {
        Some(state) => format!("{state} at level {}", info.level()),
        None => format!("{raw:#x}"),
    }
}

/// What a SEAMCALL came to: RAX in words, and its other results. `entered`: a guest ran in it.
pub(super) fn results(
    leaf: HostLeaf,
    before: &GprFile,
    after: &GprFile,
    entered: bool,
) -> (String, Vec<Word>) {
    let rax = after[Gpr::Rax];
    if leaf == HostLeaf::VP_ENTER && entered {
        return exit(after);
    }
    let named = leaf.row().map_or(&[][..], |row| row.outputs);
    let words = outputs(named, after, |reg| before[reg] != after[reg]);
    (Status(rax).to_string(), words)
}

/// The named results: after a success all of them, after an error those that changed; and whatever else changed.
pub(super) fn outputs(
    named: &[LeafOperand],
    after: &GprFile,
    changed: impl Fn(Gpr) -> bool,
) -> Vec<Word> {
    let success = !Status(after[Gpr::Rax]).is_error();
    // The module's constant zeros have no name.
    let named: Vec<_> = named
        .iter()
        .filter(|operand| operand.name != "0")
        .copied()
        .collect();
    let covered = named.iter().fold(0, |all, operand| all | operand.gprs());
    let mut words = call_words(Some(&named), |reg| {
        (success || changed(reg)).then_some(after[reg])
    });
    let others = Gpr::ALL.into_iter().filter(|reg| {
        let interesting = *reg != Gpr::Rax && *reg != Gpr::Rsp && after[*reg] != 0;
        interesting && covered >> reg.index() & 1 == 0 && changed(*reg)
    });
    words.extend(others.map(|reg| Word::plain(reg.name(), after[reg])));
    words
}

/// How a vCPU left its TD.
fn exit(after: &GprFile) -> (String, Vec<Word>) {
    let words = ExitWords {
        rax: Status(after[Gpr::Rax]),
        rcx: after[Gpr::Rcx],
        rdx: after[Gpr::Rdx],
        r8: after[Gpr::R8],
        r9: after[Gpr::R9],
    };
    if words.kind() == ExitKind::Tdvmcall {
        return (vmcall("TDVMCALL", after), vmcall_words(after));
    }
    let reason = ExitReason(words.exit_reason() as u16);
    let status = match words.rax.code() {
        Status::SUCCESS => String::new(),
        code => format!("{code} "),
    };
    let values = [Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9].map(|reg| (reg, after[reg]));
    let shown = values.iter().filter(|(_, value)| *value != 0);
    let words = shown.map(|(reg, value)| Word::plain(reg.name(), *value));
    (format!("{status}{reason}"), words.collect())
}

/// A TDVMCALL by its sub-function.
pub(super) fn vmcall(name: &str, gprs: &GprFile) -> String {
    match gprs[Gpr::R10] {
        0 => format!("{name} <{}>", VmcallFunction(gprs[Gpr::R11])),
        own => format!("{name} hypercall {own:#x}"),
    }
}

/// What its mask shows beside the sub-function.
pub(super) fn vmcall_words(gprs: &GprFile) -> Vec<Word> {
    let mask = gprs[Gpr::Rcx];
    let shown = Gpr::ALL
        .into_iter()
        .filter(|reg| mask >> reg.index() & 1 != 0);
    let others = shown.filter(|reg| !matches!(reg, Gpr::R10 | Gpr::R11) && gprs[*reg] != 0);
    others
        .map(|reg| Word::plain(reg.name(), gprs[reg]))
        .collect()
}

/// An event that is delivered to a guest.
pub(super) fn event(info: u32, error_code: Option<u32>) -> String {
    let name = match info as u8 {
        1 => "#DB",
        6 => "#UD",
        8 => "#DF",
        13 => "#GP",
        14 => "#PF",
        18 => "#MC",
        20 => "#VE",
        _ => "",
    };
    let kind = info >> 8 & 7;
    let mut text = match (kind, name) {
        (2, _) => "NMI".to_owned(),
        (3, name) if !name.is_empty() => name.to_owned(),
        _ => format!("event {info:#x}"),
    };
    if let Some(code) = error_code.filter(|_| info & 1 << 11 != 0) {
        text += &format!("({code:#x})");
    }
    text
}
