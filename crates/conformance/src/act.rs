//! What the guest of a recorded TD entry did.

use std::collections::BTreeMap;

use serde::Deserialize;
use x86_arch::VmExit;

use crate::number::{Bytes, Hex, Hex128};
use crate::op::{Op, check_ignore};
use crate::registers::{Gprs, Names, TraceGpr, Xmms};
use crate::state::Field;

/// One act of the guest, or of its surroundings while it runs.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(try_from = "RawAct")]
pub enum Act {
    /// The state in which the vCPU starts to run.
    Entry(Box<EntryState>),
    /// The vCPU switches itself to 64-bit mode.
    LongMode,
    /// The guest changes registers.
    Set(Box<SetRegisters>),
    /// The guest memory behind this host page must hold this.
    GuestMem {
        hpa: u64,
        bytes: Vec<u8>,
        label: Option<String>,
        ignore: Vec<[usize; 2]>,
    },
    GuestStore {
        hpa: u64,
        bytes: Vec<u8>,
    },
    /// Events pending on the processor on which the vCPU runs.
    IntrPending {
        bits: u8,
    },
    /// RDMSR or WRMSR without exit.
    NativeMsr {
        write: bool,
        input: Gprs,
    },
    /// MOV to CR0 or CR4 without exit.
    NativeCrWrite {
        cr: u8,
        input: Gprs,
    },
    /// Something that makes the vCPU exit into the module.
    Exit(Box<ExitAct>),
    /// Other processors do this meanwhile.
    Host {
        ops: Vec<Op>,
    },
}

#[derive(Clone, PartialEq, Debug)]
pub struct EntryState {
    pub gprs: Gprs,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    /// Those not listed are zero.
    pub xmm: Xmms,
}

#[derive(Clone, PartialEq, Debug)]
pub struct SetRegisters {
    pub gprs: Gprs,
    pub rip: Option<u64>,
    pub rsp: Option<u64>,
    pub xmm: Option<[u128; 16]>,
    /// Extension: other state that the guest owns and the module looks at.
    pub state: Vec<(&'static Field, u64)>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ExitAct {
    /// The recorder's name of the act.
    pub name: String,
    /// The recorder's name of the TDCALL leaf.
    pub leaf: Option<String>,
    /// CR number of a CR write.
    pub cr: Option<u8>,
    pub vmx: VmExit,
    /// Registers that the guest sets for it.
    pub input: Gprs,
    /// Registers that take a captured value instead.
    pub from: Names,
    pub then: Then,
}

/// What comes of an exit.
#[derive(Clone, PartialEq, Debug)]
pub enum Then {
    /// The TD exits to the VMM.
    TdExit,
    /// The module stops for good.
    Shutdown,
    GoesOn(Box<GoesOn>),
}

/// How the guest goes on after an exit that the module handled.
#[derive(Clone, PartialEq, Debug)]
pub struct GoesOn {
    pub output: Gprs,
    pub rip_advance: u64,
    pub inject: Option<Inject>,
    pub status: Option<String>,
    pub volatile: Vec<TraceGpr>,
    pub capture: Names,
    pub label: Option<String>,
}

/// An event delivered on entry, in VM-entry interruption-information format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inject {
    pub info: u32,
    pub error_code: Option<u32>,
}

impl Act {
    /// The act's name in the format.
    pub fn name(&self) -> &str {
        match self {
            Act::Entry(_) => "entry",
            Act::LongMode => "long_mode",
            Act::Set(_) => "set",
            Act::GuestMem { .. } => "guest_mem",
            Act::GuestStore { .. } => "guest_store",
            Act::IntrPending { .. } => "intr_pending",
            Act::NativeMsr { write: false, .. } => "rdmsr",
            Act::NativeMsr { write: true, .. } => "wrmsr",
            Act::NativeCrWrite { .. } => "cr_write",
            Act::Exit(exit) => &exit.name,
            Act::Host { .. } => "host",
        }
    }

    /// A list starts with the entry and ends with the act that left the TD.
    pub(crate) fn check_list(
        acts: &[Act],
        shutdown: bool,
        lps: u32,
        lp: u32,
    ) -> Result<(), String> {
        let Some((last, others)) = acts.split_last() else {
            return Err("guest: expected at least an entry and an exit".into());
        };
        let entries = acts.iter().filter(|act| matches!(act, Act::Entry(_)));
        if !matches!(acts[0], Act::Entry(_)) || entries.count() != 1 {
            return Err("guest: expected entry as the first act, and once".into());
        }
        match last {
            Act::Exit(exit) if exit.then == Then::TdExit && !shutdown => {}
            Act::Exit(exit) if exit.then == Then::Shutdown && shutdown => {}
            _ if shutdown => return Err("guest: expected shutdown: true on the last act".into()),
            _ => return Err("guest: expected exit: true on the last act".into()),
        }
        for (i, act) in others.iter().enumerate() {
            let wrong = match act {
                Act::Exit(exit) if !matches!(exit.then, Then::GoesOn(_)) => {
                    Some("expected the act that leaves the TD to be the last".into())
                }
                Act::Host { ops } => ops.iter().find_map(|op| match op {
                    Op::Reset { .. } => Some("expected no reset while a vCPU runs".into()),
                    Op::Seamcall(call) if call.lp == lp => Some(format!(
                        "expected another lp than {lp}, which runs the vCPU"
                    )),
                    op => op.check(lps).err(),
                }),
                _ => None,
            };
            if let Some(wrong) = wrong {
                return Err(format!("guest act {} ({}): {wrong}", i + 1, act.name()));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInject {
    info: Hex,
    error_code: Option<Hex>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVmx {
    reason: u32,
    #[serde(default)]
    qual: Hex,
    #[serde(default)]
    ilen: Hex,
    #[serde(default)]
    intr: Hex,
    #[serde(default)]
    interr: Hex,
    #[serde(default)]
    gla: Hex,
    #[serde(default)]
    gpa: Hex,
    #[serde(default)]
    iinfo: Hex,
    #[serde(default)]
    idt: Hex,
    #[serde(default)]
    idterr: Hex,
}

/// An act as it is written: which keys belong together is checked in the conversion.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAct {
    act: String,
    leaf: Option<String>,
    vmx: Option<RawVmx>,
    #[serde(rename = "in")]
    input: Option<Gprs>,
    #[serde(rename = "out")]
    output: Option<Gprs>,
    rip_advance: Option<i64>,
    inject: Option<RawInject>,
    status: Option<String>,
    label: Option<String>,
    volatile: Option<Vec<TraceGpr>>,
    capture: Option<Names>,
    from: Option<Names>,
    exit: Option<bool>,
    shutdown: Option<bool>,
    native: Option<bool>,
    cr: Option<u8>,
    gprs: Option<Gprs>,
    rip: Option<Hex>,
    rsp: Option<Hex>,
    rflags: Option<Hex>,
    xmm: Option<RawXmm>,
    hpa: Option<Hex>,
    hex: Option<Bytes>,
    ignore: Option<Vec<[usize; 2]>>,
    bits: Option<u8>,
    ops: Option<Vec<Op>>,
    state: Option<BTreeMap<String, Hex>>,
}

/// `entry` lists some registers by name, `set` all sixteen in order.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected 16 XMM values or an object from xmm0..xmm15 to values"
)]
enum RawXmm {
    All(Box<[Hex128; 16]>),
    Some(Xmms),
}

/// Takes the key of an act that must have it.
fn must<T>(value: &mut Option<T>, act: &str, key: &str) -> Result<T, String> {
    value
        .take()
        .ok_or_else(|| format!("{act}: expected key {key}"))
}

fn u32_of(Hex(n): Hex, key: &str) -> Result<u32, String> {
    u32::try_from(n).map_err(|_| format!("{key} {n:#x}: expected a 32-bit number"))
}

impl TryFrom<RawVmx> for VmExit {
    type Error = String;
    fn try_from(raw: RawVmx) -> Result<VmExit, String> {
        Ok(VmExit {
            reason: raw.reason,
            qualification: raw.qual.0,
            instruction_length: u32_of(raw.ilen, "ilen")?,
            instruction_info: u32_of(raw.iinfo, "iinfo")?,
            interruption_info: u32_of(raw.intr, "intr")?,
            interruption_error: u32_of(raw.interr, "interr")?,
            idt_vectoring_info: u32_of(raw.idt, "idt")?,
            idt_vectoring_error: u32_of(raw.idterr, "idterr")?,
            guest_linear_address: raw.gla.0,
            guest_physical_address: raw.gpa.0,
        })
    }
}

impl TryFrom<RawAct> for Act {
    type Error = String;

    fn try_from(mut raw: RawAct) -> Result<Act, String> {
        let name = std::mem::take(&mut raw.act);
        let act = raw.take_act(&name)?;
        match raw.left_over() {
            None => Ok(act),
            Some(key) => Err(format!("{name}: key {key} does not belong to this act")),
        }
    }
}

impl RawAct {
    fn take_act(&mut self, name: &str) -> Result<Act, String> {
        if let Some(vmx) = self.vmx.take() {
            return self.take_exit(name, vmx.try_into()?);
        }
        Ok(match name {
            "entry" => Act::Entry(Box::new(EntryState {
                gprs: self.take_whole_gprs()?,
                rip: must(&mut self.rip, name, "rip")?.0,
                rsp: must(&mut self.rsp, name, "rsp")?.0,
                rflags: must(&mut self.rflags, name, "rflags")?.0,
                xmm: match self.xmm.take() {
                    Some(RawXmm::Some(list)) => list,
                    _ => return Err("entry: expected key xmm with an object".into()),
                },
            })),
            "long_mode" => Act::LongMode,
            "set" => Act::Set(Box::new(SetRegisters {
                gprs: self.gprs.take().unwrap_or_default(),
                rip: self.rip.take().map(|n| n.0),
                rsp: self.rsp.take().map(|n| n.0),
                xmm: match self.xmm.take() {
                    None => None,
                    Some(RawXmm::All(values)) => Some(values.map(|v| v.0)),
                    Some(RawXmm::Some(_)) => return Err("set: expected 16 values in xmm".into()),
                },
                state: self.take_state()?,
            })),
            "guest_mem" => {
                let bytes = must(&mut self.hex, name, "hex")?.0;
                let ignore = self.ignore.take().unwrap_or_default();
                check_ignore(&ignore, bytes.len())?;
                let hpa = must(&mut self.hpa, name, "hpa")?.0;
                Act::GuestMem {
                    hpa,
                    bytes,
                    label: self.label.take(),
                    ignore,
                }
            }
            "guest_store" => {
                self.label = None;
                let bytes = must(&mut self.hex, name, "hex")?.0;
                Act::GuestStore {
                    hpa: must(&mut self.hpa, name, "hpa")?.0,
                    bytes,
                }
            }
            "intr_pending" => match must(&mut self.bits, name, "bits")? {
                bits @ 0..=7 => Act::IntrPending { bits },
                bits => return Err(format!("intr_pending {bits}: expected bits 0 to 2 only")),
            },
            "host" => Act::Host {
                ops: must(&mut self.ops, name, "ops")?,
            },
            "rdmsr" | "wrmsr" if self.native.take() == Some(true) => Act::NativeMsr {
                write: name == "wrmsr",
                input: must(&mut self.input, name, "in")?,
            },
            "cr_write" if self.native.take() == Some(true) => Act::NativeCrWrite {
                cr: self.take_cr()?,
                input: match must(&mut self.input, name, "in")? {
                    input if input.0.len() == 1 => input,
                    _ => return Err("cr_write: expected one register in key in".into()),
                },
            },
            _ => {
                return Err(format!(
                    "act {name:?}: expected one of FORMAT.md, or key vmx"
                ));
            }
        })
    }

    fn take_exit(&mut self, name: &str, vmx: VmExit) -> Result<Act, String> {
        let cr = self.cr.is_some().then(|| self.take_cr()).transpose()?;
        let then = match (self.exit.take(), self.shutdown.take()) {
            (Some(true), None) => Then::TdExit,
            (None | Some(true), Some(true)) => Then::Shutdown,
            (None, None) => Then::GoesOn(Box::new(GoesOn {
                output: must(&mut self.output, name, "out, exit or shutdown")?,
                rip_advance: self.rip_advance.take().unwrap_or(0) as u64,
                inject: match self.inject.take() {
                    None => None,
                    Some(inject) => Some(Inject {
                        info: u32_of(inject.info, "info")?,
                        error_code: inject
                            .error_code
                            .map(|n| u32_of(n, "error_code"))
                            .transpose()?,
                    }),
                },
                status: self.status.take(),
                volatile: self.volatile.take().unwrap_or_default(),
                capture: self.capture.take().unwrap_or_default(),
                label: self.label.take(),
            })),
            _ => {
                return Err(format!(
                    "{name}: expected exit and shutdown to be true or absent"
                ));
            }
        };
        self.label = None;
        Ok(Act::Exit(Box::new(ExitAct {
            name: name.to_owned(),
            leaf: self.leaf.take(),
            cr,
            vmx,
            input: self.input.take().unwrap_or_default(),
            from: self.from.take().unwrap_or_default(),
            then,
        })))
    }

    fn take_whole_gprs(&mut self) -> Result<Gprs, String> {
        let gprs = must(&mut self.gprs, "entry", "gprs")?;
        match gprs.0.len() {
            15 => Ok(gprs),
            n => Err(format!(
                "entry: {n} registers in gprs: expected all 15 but rsp"
            )),
        }
    }

    fn take_state(&mut self) -> Result<Vec<(&'static Field, u64)>, String> {
        let state = self.state.take().unwrap_or_default().into_iter();
        let field = |(name, Hex(value)): (String, Hex)| match Field::named(&name) {
            Some(field) => Ok((field, value)),
            None => Err(format!("set: {name:?} in state: expected a vCPU's field")),
        };
        state.map(field).collect()
    }

    fn take_cr(&mut self) -> Result<u8, String> {
        match must(&mut self.cr, "cr_write", "cr")? {
            cr @ (0 | 4) => Ok(cr),
            cr => Err(format!("cr {cr}: expected 0 or 4")),
        }
    }

    /// A key that the act did not take.
    fn left_over(&self) -> Option<&'static str> {
        macro_rules! first_of {
            ($($field:ident $key:literal,)*) => { $(if self.$field.is_some() { return Some($key) })* };
        }
        first_of! {
            leaf "leaf", vmx "vmx", input "in", output "out", rip_advance "rip_advance", inject "inject",
            status "status", label "label", volatile "volatile", capture "capture", from "from",
            exit "exit", shutdown "shutdown", native "native", cr "cr", gprs "gprs", rip "rip", rsp "rsp",
            rflags "rflags", xmm "xmm", hpa "hpa", hex "hex", ignore "ignore", bits "bits", ops "ops",
            state "state",
        }
        None
    }
}
