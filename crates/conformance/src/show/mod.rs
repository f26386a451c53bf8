//! A trace as readable text: one row for each call and each act of a guest.

mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;

use coco_regs::GprFile;
use serde::Serialize;
use tdx_abi::{GuestLeaf, HostLeaf, LeafWord, Status};
use x86_arch::{ExitReason, Gpr};

use crate::act::{Act, ExitAct, Then};
use crate::op::{Op, Seamcall};
use crate::reader::{ReadError, TraceReader};
use crate::registers::Gprs;

pub use words::Word;
use words::call_words;

/// One line of the text.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Row {
    /// Line of the file.
    pub line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lp: Option<u32>,
    /// 0 for the host's calls, 1 for what a guest does in one, 2 for calls of other processors meanwhile, and so on.
    pub depth: usize,
    /// The leaf, the instruction that exited, or the operation of the recording machine.
    pub what: String,
    /// The TD by its TDR page, where the call names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub td: Option<u64>,
    /// The vCPU: in the order of TDH.VP.CREATE in its TD, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    #[serde(rename = "in")]
    pub input: Vec<Word>,
    /// The completion status's name without its prefix; empty for what has none.
    pub status: String,
    /// RAX with its details in words, an exit, an event.
    pub outcome: String,
    #[serde(rename = "out")]
    pub output: Vec<Word>,
    /// How often in a row.
    pub times: u64,
}

impl Row {
    /// A call of the host: leaf and operands, and what came of it (`None`: the module stopped for good). `entered`: a
    /// guest ran in it.
    pub fn describe_call(&mut self, before: &GprFile, after: Option<&GprFile>, entered: bool) {
        let word = LeafWord(before[Gpr::Rax]);
        let leaf = HostLeaf(word.number());
        self.what = leaf_name(leaf.to_string(), word);
        self.input = call_words(leaf.row().map(|row| row.inputs), |reg| Some(before[reg]));
        let Some(after) = after else {
            self.outcome = "the module stops".into();
            return;
        };
        self.status = status_name(after[Gpr::Rax]);
        (self.outcome, self.output) = words::results(leaf, before, after, entered);
    }
}

impl fmt::Display for Row {
    /// Without a line number where there is no file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line != 0 {
            write!(f, "{:>7}  ", self.line)?;
        }
        match self.lp {
            Some(lp) if self.depth.is_multiple_of(2) => write!(f, "LP {lp}  ")?,
            _ => f.write_str("      ")?,
        }
        for _ in 0..self.depth {
            f.write_str("  ")?;
        }
        f.write_str(&self.what)?;
        for word in &self.input {
            write!(f, " {word}")?;
        }
        if !self.outcome.is_empty() {
            write!(f, " -> {}", self.outcome)?;
        }
        for word in &self.output {
            write!(f, " {word}")?;
        }
        match self.times {
            0 | 1 => Ok(()),
            times => write!(f, " ({times} times)"),
        }
    }
}

/// Reads a trace as rows.
pub struct Rows<R> {
    trace: TraceReader<R>,
    /// By TDVPR page: TDR page and index.
    vcpus: BTreeMap<u64, (u64, u32)>,
}

impl<R: BufRead> Rows<R> {
    pub fn new(input: R) -> Result<Rows<R>, ReadError> {
        Ok(Rows {
            trace: TraceReader::new(input)?,
            vcpus: BTreeMap::new(),
        })
    }

    /// The header in a line: what was recorded, on what.
    pub fn title(&self) -> String {
        let header = self.trace.header();
        let platform = &header.platform;
        format!(
            "{}: {}; {}; {} processor(s) in {} package(s)",
            header.name, header.about, header.module, platform.lps, platform.packages
        )
    }

    /// The rows of the next line; `None` at the end of the file.
    pub fn next_line(&mut self) -> Result<Option<Vec<Row>>, ReadError> {
        let Some((line, op)) = self.trace.next_op()? else {
            return Ok(None);
        };
        let mut rows = Vec::new();
        self.op(line, 0, &op, &mut rows);
        Ok(Some(rows))
    }

    fn op(&mut self, line: u64, depth: usize, op: &Op, rows: &mut Vec<Row>) {
        let mut row = Row {
            line,
            depth,
            times: 1,
            ..Row::default()
        };
        let plain = |name: &str, value: u64| Word::plain(name, value);
        match op {
            Op::Seamcall(call) => {
                self.call(row, call, rows);
                return;
            }
            Op::Write { pa, hex, .. } => {
                row.what = "host writes".into();
                row.input = vec![
                    plain("", pa.0),
                    Word::text("", format!("{} bytes", hex.0.len())),
                ];
            }
            Op::Fill { pa, size, byte } => {
                row.what = "host fills".into();
                row.input = vec![
                    plain("", pa.0),
                    plain("size", size.0),
                    plain("with", (*byte).into()),
                ];
            }
            Op::Read { pa, hex, .. } => {
                row.what = "host reads".into();
                row.input = vec![
                    plain("", pa.0),
                    Word::text("", format!("{} bytes", hex.0.len())),
                ];
            }
            Op::Note { text } => row.what = format!("note: {text}"),
            Op::Reset { why, .. } => {
                self.vcpus.clear();
                row.what = match why {
                    Some(why) => format!("reset: {why}"),
                    None => "reset".into(),
                };
            }
            Op::SetMsr { lp, msr, value } => {
                row.lp = Some(*lp);
                row.what = "MSR".into();
                row.input = vec![plain("", msr.0), plain("=", value.0)];
            }
            Op::SetTsc { value } => {
                row.what = "TSC".into();
                row.input = vec![plain("=", value.0)];
            }
            Op::EntropyFail { count } => row.what = format!("no entropy {count} times"),
            Op::PconfigResult { code } => row.what = format!("PCONFIG answers {code}"),
            Op::IntrPending { lp, bits } => {
                row.lp = Some(*lp);
                row.what = pending(*bits);
            }
        }
        rows.push(row);
    }

    fn call(&mut self, mut row: Row, call: &Seamcall, rows: &mut Vec<Row>) {
        let header = self.trace.header();
        let mut before = GprFile::default();
        for (reg, value) in header.gpr_default.iter().chain(call.input.iter()) {
            before[reg] = value;
        }
        let after = call.output.as_ref().map(|output| {
            let mut after = before;
            for (reg, value) in output.iter() {
                after[reg] = value;
            }
            after
        });
        let entered = call.guest.is_some();
        let leaf = HostLeaf(LeafWord(before[Gpr::Rax]).number());
        (row.td, row.vcpu) = self.names(leaf, &before);
        row.lp = Some(call.lp);
        row.times = call.repeat;
        row.describe_call(&before, after.as_ref(), entered);
        if leaf == HostLeaf::VP_CREATE && row.status == "SUCCESS" {
            let (tdvpr, tdr) = (before[Gpr::Rcx], before[Gpr::Rdx]);
            let index = self.vcpus.values().filter(|(of, _)| *of == tdr).count() as u32;
            self.vcpus.insert(tdvpr, (tdr, index));
            row.vcpu = Some(index);
        }
        let of_guest = Row {
            depth: row.depth + 1,
            times: 1,
            what: String::new(),
            input: Vec::new(),
            status: String::new(),
            outcome: String::new(),
            output: Vec::new(),
            ..row.clone()
        };
        rows.push(row);
        let mut guest = GprFile::default();
        for act in call.guest.as_deref().unwrap_or_default() {
            self.act(of_guest.clone(), act, &mut guest, rows);
        }
    }

    /// The TD and the vCPU that a call names.
    fn names(&self, leaf: HostLeaf, input: &GprFile) -> (Option<u64>, Option<u32>) {
        const PAGE: u64 = 0x000F_FFFF_FFFF_F000;
        let operands = leaf.row().map_or(&[][..], |row| row.inputs);
        let named = |prefix: &str| {
            let found = operands
                .iter()
                .find(|operand| operand.name.starts_with(prefix))?;
            Some(input[Gpr::parse(found.registers)?] & PAGE)
        };
        if let Some(tdvpr) = named("TDVPR_HPA") {
            let known = self.vcpus.get(&tdvpr);
            return match known {
                Some((tdr, index)) => (Some(*tdr), Some(*index)),
                None => (named("TDR_HPA"), None),
            };
        }
        (named("TDR_HPA").or_else(|| named("TARGET_TDR_HPA")), None)
    }

    fn act(&mut self, mut row: Row, act: &Act, guest: &mut GprFile, rows: &mut Vec<Row>) {
        match act {
            Act::Entry(entry) => {
                take(guest, &entry.gprs);
                row.what = "enters".into();
                row.input = vec![Word::plain("RIP", entry.rip), Word::plain("RSP", entry.rsp)];
            }
            Act::LongMode => row.what = "goes to 64-bit mode".into(),
            Act::Set(set) => {
                take(guest, &set.gprs);
                row.what = "sets".into();
                row.input = set
                    .gprs
                    .iter()
                    .map(|(reg, value)| Word::plain(reg.name(), value))
                    .collect();
                row.input.extend(set.rip.map(|rip| Word::plain("RIP", rip)));
                row.input.extend(set.rsp.map(|rsp| Word::plain("RSP", rsp)));
                row.input
                    .extend(set.xmm.map(|_| Word::text("", "XMM0-XMM15".into())));
                row.input.extend(
                    set.state
                        .iter()
                        .map(|(field, value)| Word::plain(field.name, *value)),
                );
            }
            Act::GuestMem { hpa, bytes, .. } => {
                row.what = "has in memory at".into();
                row.input = vec![
                    Word::plain("", *hpa),
                    Word::text("", format!("{} bytes", bytes.len())),
                ];
            }
            Act::GuestStore { hpa, bytes } => {
                row.what = "stores at".into();
                row.input = vec![
                    Word::plain("", *hpa),
                    Word::text("", format!("{} bytes", bytes.len())),
                ];
            }
            Act::IntrPending { bits } => row.what = pending(*bits),
            Act::NativeMsr { write, input } => {
                row.what = if *write { "WRMSR" } else { "RDMSR" }.into();
                row.input = listed(input);
                row.outcome = "no exit".into();
            }
            Act::NativeCrWrite { cr, input } => {
                row.what = format!("MOV to CR{cr}");
                row.input = listed(input);
                row.outcome = "no exit".into();
            }
            Act::Exit(exit) => exit_row(&mut row, exit, guest),
            Act::Host { ops } => {
                for op in ops {
                    self.op(row.line, row.depth + 1, op, rows);
                }
                return;
            }
        }
        rows.push(row);
    }
}

/// An act that exits: a TDCALL by its leaf, anything else by its exit reason.
fn exit_row(row: &mut Row, exit: &ExitAct, guest: &mut GprFile) {
    take(guest, &exit.input);
    let reason = exit.vmx.basic_reason();
    let tdcall = reason == ExitReason::TDCALL;
    let word = LeafWord(guest[Gpr::Rax]);
    let leaf = GuestLeaf(word.number());
    let plain = |regs: &[Gpr]| {
        let values = regs.iter().map(|reg| Word::plain(reg.name(), guest[*reg]));
        values.collect::<Vec<_>>()
    };
    if tdcall && leaf == GuestLeaf::VP_VMCALL {
        row.what = words::vmcall(&leaf.to_string(), guest);
        row.input = words::vmcall_words(guest);
    } else if tdcall {
        row.what = leaf_name(leaf.to_string(), word);
        row.input = call_words(leaf.row().map(|row| row.inputs), |reg| Some(guest[reg]));
    } else {
        row.what = reason.to_string();
        row.input = match reason {
            ExitReason::CPUID_INSTRUCTION => plain(&[Gpr::Rax, Gpr::Rcx]),
            ExitReason::MSR_READ => plain(&[Gpr::Rcx]),
            ExitReason::MSR_WRITE => plain(&[Gpr::Rcx, Gpr::Rdx, Gpr::Rax]),
            _ => Vec::new(),
        };
        let vmx = &exit.vmx;
        let words = [
            ("qualification", vmx.qualification),
            ("GPA", vmx.guest_physical_address),
            ("interruption", vmx.interruption_info.into()),
        ];
        let shown = words.into_iter().filter(|(_, value)| *value != 0);
        row.input
            .extend(shown.map(|(name, value)| Word::plain(name, value)));
    }
    match &exit.then {
        Then::TdExit => row.outcome = "TD exit".into(),
        Then::Shutdown => row.outcome = "the module stops".into(),
        Then::GoesOn(then) => {
            take(guest, &then.output);
            if let Some(inject) = then.inject {
                row.outcome = words::event(inject.info, inject.error_code);
            } else if tdcall && then.rip_advance == 0 {
                row.outcome = "to be executed again".into();
            } else if tdcall {
                row.status = status_name(guest[Gpr::Rax]);
                row.outcome = Status(guest[Gpr::Rax]).to_string();
            } else {
                row.outcome = "goes on".into();
            }
            row.output = match leaf.row().filter(|_| tdcall && !row.status.is_empty()) {
                Some(known) => {
                    words::outputs(known.outputs, guest, |reg| then.output.get(reg).is_some())
                }
                None => listed(&then.output),
            };
        }
    }
}

/// The guest's registers take these values.
fn take(guest: &mut GprFile, values: &Gprs) {
    for (reg, value) in values.iter() {
        guest[reg] = value;
    }
}

fn listed(gprs: &Gprs) -> Vec<Word> {
    gprs.iter()
        .map(|(reg, value)| Word::plain(reg.name(), value))
        .collect()
}

fn leaf_name(name: String, word: LeafWord) -> String {
    match word.version() {
        0 => name,
        version => format!("{name} v{version}"),
    }
}

fn pending(bits: u8) -> String {
    let names = [(1, "an interrupt"), (2, "an NMI"), (4, "an SMI")];
    let names: Vec<_> = names
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    match names.is_empty() {
        true => "nothing is pending".into(),
        false => format!("{} is pending", names.join(" and ")),
    }
}

/// A status's name, or its number where it has none.
pub fn status_name(rax: u64) -> String {
    match Status(rax).name() {
        Some(name) => name.to_owned(),
        None => format!("{:#010x}", rax >> 32),
    }
}

/// Shows every row of a trace and forgets it: for any bytes, an answer and no panic.
pub fn fuzz_rows(bytes: &[u8]) {
    if let Ok(mut rows) = Rows::new(bytes) {
        let _ = rows.title();
        while let Ok(Some(shown)) = rows.next_line() {
            for row in shown {
                let _ = row.to_string();
                let _ = serde_json::to_string(&row);
            }
        }
    }
}
