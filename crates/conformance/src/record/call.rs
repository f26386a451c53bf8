//! One SEAMCALL while it is being recorded.

use std::collections::BTreeMap;
use std::fmt::Write;

use coco_regs::{GprFile, XmmFile};
use tdx_abi::{GuestLeaf, HostLeaf, LeafWord, Status};
use tdx_module::PendingEvents;
use x86_arch::vmx::Vcpu;
use x86_arch::{ExitReason, Gpr, Hpa, VmExit};

use super::json;
use crate::state::Field;

const EVENT_VALID: u32 = 1 << 31;
const EVENT_HAS_ERROR: u32 = 1 << 11;

pub(super) struct Call {
    pub(super) lp: u32,
    leaf: HostLeaf,
    input: GprFile,
    xmm_in: Option<[u128; 16]>,
    /// What the host wrote for the module to read, by address.
    writes: BTreeMap<u64, Vec<u8>>,
    acts: Vec<String>,
    /// The state at the last VM entry.
    entered: Option<Box<Snapshot>>,
    exit: Option<OpenExit>,
    /// Pending events of the processor: as a replay has them, and as they were before.
    pending: u8,
    ops: Vec<String>,
}

/// A VM exit that the module is handling.
struct OpenExit {
    /// The act as far as it is known: everything but what came of it.
    act: String,
    gprs: [u64; 16],
    rip: u64,
    is_tdcall: bool,
    /// Acts to come before it.
    before: Vec<String>,
}

/// What is compared from entry to exit.
struct Snapshot {
    gprs: [u64; 16],
    rip: u64,
    xmms: [u128; 16],
    state: Vec<u64>,
}

impl Snapshot {
    fn of(vcpu: &Vcpu) -> Snapshot {
        Snapshot {
            gprs: vcpu.regs.gpr,
            rip: vcpu.regs.rip,
            xmms: vcpu.regs.fpu.ymm.map(|ymm| ymm[0]),
            state: Field::all().map(|field| field.get(vcpu)).collect(),
        }
    }
}

impl Call {
    pub(super) fn new(
        lp: u32,
        leaf: HostLeaf,
        gprs: &GprFile,
        xmms: &XmmFile,
        known: [u128; 16],
        pending: u8,
    ) -> Call {
        Call {
            lp,
            leaf,
            input: *gprs,
            xmm_in: (xmms.0 != known).then_some(xmms.0),
            writes: BTreeMap::new(),
            acts: Vec::new(),
            entered: None,
            exit: None,
            pending,
            ops: Vec::new(),
        }
    }

    pub(super) fn pending(&self) -> u8 {
        self.pending
    }

    pub(super) fn read(&mut self, from: Hpa, private: bool, bytes: &[u8]) {
        if let Some(exit) = &mut self.exit {
            let (hpa, hex) = (from.raw(), json::hex(bytes));
            let act = format!(r#"{{"act":"guest_store","hpa":"{hpa:#x}","hex":"{hex}"}}"#);
            exit.before.push(act);
            return;
        }
        // While a guest runs its processor reads by itself. What the module measures or moves of private memory is
        // what an earlier call made it write; the debugger's look at it is not.
        let of_debugger = matches!(self.leaf, HostLeaf::MEM_RD | HostLeaf::MEM_WR);
        if self.entered.is_none() && (!private || of_debugger) {
            self.wrote(from.raw(), bytes);
        }
    }

    /// Notes bytes, joined with those right before them.
    fn wrote(&mut self, at: u64, bytes: &[u8]) {
        if let Some((&start, before)) = self.writes.range_mut(..=at).next_back()
            && start + before.len() as u64 == at
        {
            before.extend_from_slice(bytes);
            return;
        }
        // What is read twice is the same, unless the module wrote it in between.
        self.writes.entry(at).or_insert_with(|| bytes.to_vec());
    }

    pub(super) fn asked_for_events(&mut self, events: PendingEvents) {
        let bits =
            u8::from(events.interrupt) | u8::from(events.nmi) << 1 | u8::from(events.smi) << 2;
        if bits == self.pending {
            return;
        }
        self.pending = bits;
        match &mut self.exit {
            Some(exit) => {
                let act = format!(r#"{{"act":"intr_pending","bits":{bits}}}"#);
                exit.before.push(act);
            }
            None => {
                let lp = self.lp;
                let op = format!(r#"{{"op":"intr_pending","lp":{lp},"bits":{bits}}}"#);
                self.ops.push(op);
            }
        }
    }

    pub(super) fn entering(&mut self, vcpu: &Vcpu) {
        match self.exit.take() {
            Some(exit) => self.goes_on(exit, vcpu),
            None => self.acts.push(entry(vcpu)),
        }
        self.entered = Some(Box::new(Snapshot::of(vcpu)));
    }

    pub(super) fn exited(&mut self, vcpu: &Vcpu) {
        let Some(entered) = self.entered.take() else {
            return;
        };
        if let Some(set) = set(&entered, vcpu) {
            self.acts.push(set);
        }
        let gprs = &vcpu.regs.gpr;
        let changed = Gpr::ALL
            .into_iter()
            .filter(|reg| gprs[reg.index()] != entered.gprs[reg.index()]);
        let input = json::gprs(changed.map(|reg| (reg, gprs[reg.index()])));
        let reason = vcpu.exit.basic_reason();
        let is_tdcall = reason == ExitReason::TDCALL;
        let leaf = match is_tdcall {
            true => {
                let leaf = GuestLeaf(LeafWord(gprs[Gpr::Rax.index()]).number());
                format!(r#""leaf":"{leaf}","#)
            }
            false => String::new(),
        };
        let (name, vmx) = (act_name(reason), vmx(&vcpu.exit));
        self.exit = Some(OpenExit {
            act: format!(r#""act":"{name}",{leaf}"vmx":{vmx},"in":{input}"#),
            gprs: *gprs,
            rip: vcpu.regs.rip,
            is_tdcall,
            before: Vec::new(),
        });
    }

    /// The module handled the exit and lets the guest go on.
    fn goes_on(&mut self, exit: OpenExit, vcpu: &Vcpu) {
        let gprs = &vcpu.regs.gpr;
        let changed = Gpr::ALL
            .into_iter()
            .filter(|reg| gprs[reg.index()] != exit.gprs[reg.index()]);
        let output = json::gprs(changed.map(|reg| (reg, gprs[reg.index()])));
        let mut act = format!(r#"{{{},"out":{output}"#, exit.act);
        let advance = vcpu.regs.rip.wrapping_sub(exit.rip) as i64;
        if advance != 0 {
            let _ = write!(act, r#","rip_advance":{advance}"#);
        }
        let event = vcpu.entry_event;
        if event.info & EVENT_VALID != 0 {
            let _ = write!(act, r#","inject":{{"info":"{:#x}""#, event.info);
            if event.info & EVENT_HAS_ERROR != 0 {
                let _ = write!(act, r#","error_code":"{:#x}""#, event.error_code);
            }
            act.push('}');
        } else if exit.is_tdcall && advance != 0 {
            let _ = write!(act, r#","status":"{}""#, status(gprs[Gpr::Rax.index()]));
        }
        self.acts.extend(exit.before);
        self.acts.push(act + "}");
    }

    /// The lines of the call, now that it is over: with these registers, or the module stopped.
    pub(super) fn finish(mut self, registers: Option<(&GprFile, &XmmFile)>) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.ops);
        for (pa, bytes) in std::mem::take(&mut self.writes) {
            let hex = json::hex(&bytes);
            lines.push(format!(r#"{{"op":"write","pa":"{pa:#x}","hex":"{hex}"}}"#));
        }
        let Call {
            lp, leaf, input, ..
        } = self;
        let given = Gpr::ALL
            .into_iter()
            .filter(|reg| *reg == Gpr::Rax || input[*reg] != 0);
        let given = json::gprs(given.map(|reg| (reg, input[reg])));
        let mut line = format!(r#"{{"op":"seamcall","lp":{lp},"leaf":"{leaf}","in":{given}"#);
        match registers {
            Some((gprs, _)) => {
                let changed = Gpr::ALL
                    .into_iter()
                    .filter(|reg| *reg == Gpr::Rax || gprs[*reg] != input[*reg]);
                let output = json::gprs(changed.map(|reg| (reg, gprs[reg])));
                let status = status(gprs[Gpr::Rax]);
                let _ = write!(line, r#","out":{output},"status":"{status}""#);
            }
            None => line.push_str(r#","module_shutdown":true"#),
        }
        if let Some(xmms) = &self.xmm_in {
            let _ = write!(line, r#","xmm_in":{}"#, json::xmm_list(xmms));
        }
        if let Some(exit) = self.exit.take() {
            let end = match registers {
                Some(_) => r#""exit":true"#,
                None => r#""shutdown":true"#,
            };
            self.acts.extend(exit.before);
            self.acts.push(format!("{{{},{end}}}", exit.act));
        }
        if !self.acts.is_empty() {
            let _ = write!(line, r#","guest":[{}]"#, self.acts.join(","));
            if let Some((_, xmms)) = registers {
                let _ = write!(line, r#","xmm_out":{}"#, json::xmm_object(&xmms.0));
            }
        }
        lines.push(line + "}");
        lines
    }
}

/// The name of a status, as recordings have it.
fn status(rax: u64) -> String {
    Status(rax)
        .name()
        .map(|name| format!("TDX_{name}"))
        .unwrap_or_default()
}

fn entry(vcpu: &Vcpu) -> String {
    let regs = &vcpu.regs;
    format!(
        r#"{{"act":"entry","gprs":{},"rip":"{:#x}","rsp":"{:#x}","rflags":"{:#x}","xmm":{}}}"#,
        json::gprs(Gpr::ALL.map(|reg| (reg, regs.gpr[reg.index()]))),
        regs.rip,
        regs.gpr[Gpr::Rsp.index()],
        regs.rflags,
        json::xmm_object(&regs.fpu.ymm.map(|ymm| ymm[0])),
    )
}

/// What the guest changed by itself since its entry; general-purpose registers apart, which the exit's act carries.
fn set(entered: &Snapshot, vcpu: &Vcpu) -> Option<String> {
    let now = Snapshot::of(vcpu);
    let mut keys = Vec::new();
    if now.rip != entered.rip {
        keys.push(format!(r#""rip":"{:#x}""#, now.rip));
    }
    let rsp = Gpr::Rsp.index();
    if now.gprs[rsp] != entered.gprs[rsp] {
        keys.push(format!(r#""rsp":"{:#x}""#, now.gprs[rsp]));
    }
    if now.xmms != entered.xmms {
        keys.push(format!(r#""xmm":{}"#, json::xmm_list(&now.xmms)));
    }
    let fields = Field::all().zip(now.state.iter().zip(&entered.state));
    let changed: Vec<_> = fields
        .filter(|(_, (now, before))| now != before)
        .map(|(field, (now, _))| (field.name, *now))
        .collect();
    if !changed.is_empty() {
        keys.push(format!(r#""state":{}"#, json::object(changed)));
    }
    (!keys.is_empty()).then(|| format!(r#"{{"act":"set",{}}}"#, keys.join(",")))
}

fn vmx(exit: &VmExit) -> String {
    let words: [(&str, u64); 9] = [
        ("qual", exit.qualification),
        ("ilen", exit.instruction_length.into()),
        ("intr", exit.interruption_info.into()),
        ("interr", exit.interruption_error.into()),
        ("gla", exit.guest_linear_address),
        ("gpa", exit.guest_physical_address),
        ("iinfo", exit.instruction_info.into()),
        ("idt", exit.idt_vectoring_info.into()),
        ("idterr", exit.idt_vectoring_error.into()),
    ];
    let mut text = format!(r#"{{"reason":{}"#, exit.reason);
    for (name, value) in words.iter().filter(|(_, value)| *value != 0) {
        let _ = write!(text, r#","{name}":"{value:#x}""#);
    }
    text + "}"
}

/// What recordings call an act that exits for this reason.
fn act_name(reason: ExitReason) -> String {
    match reason {
        ExitReason::TDCALL => "tdcall".into(),
        ExitReason::CPUID_INSTRUCTION => "cpuid".into(),
        ExitReason::MSR_READ => "rdmsr".into(),
        ExitReason::MSR_WRITE => "wrmsr".into(),
        ExitReason::HLT_INSTRUCTION => "hlt".into(),
        ExitReason::INTERRUPT => "external_interrupt".into(),
        ExitReason::CR_ACCESS => "cr_access".into(),
        reason => reason.to_string().to_ascii_lowercase(),
    }
}
