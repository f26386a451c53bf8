//! The operations of a trace, one per line after the header.

use std::sync::Arc;

use serde::Deserialize;
use x86_arch::Gpr;

use crate::act::Act;
use crate::header::{CpuidRow, MsrValues, PhysRange, check_ranges};
use crate::number::{Bytes, Hex, Hex128};
use crate::registers::{Gprs, Names, TraceGpr, Xmms};

/// One operation.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// The host writes memory.
    Write {
        pa: Hex,
        hex: Bytes,
        label: Option<String>,
    },
    Fill {
        pa: Hex,
        size: Hex,
        byte: u8,
    },
    /// Memory as the host sees it now must be this.
    Read {
        pa: Hex,
        hex: Bytes,
        label: Option<String>,
        #[serde(default)]
        ignore: Vec<[usize; 2]>,
    },
    Note {
        text: String,
    },
    /// Power cycle, perhaps on a changed platform until the next one.
    Reset {
        why: Option<String>,
        msr: Option<MsrValues>,
        cpuid: Option<Vec<CpuidRow>>,
        cmrs: Option<Vec<PhysRange>>,
    },
    SetMsr {
        lp: u32,
        msr: Hex,
        value: Hex,
    },
    SetTsc {
        value: Hex,
    },
    EntropyFail {
        count: u64,
    },
    PconfigResult {
        code: u32,
    },
    IntrPending {
        lp: u32,
        bits: u8,
    },
    Seamcall(Arc<Seamcall>),
}

/// A SEAMCALL and what must come of it.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seamcall {
    pub lp: u32,
    /// The recorder's name of the leaf; RAX of `input` is what is called.
    pub leaf: String,
    #[serde(rename = "in")]
    pub input: Gprs,
    /// Every register that came back changed; absent when the module stopped.
    #[serde(rename = "out")]
    pub output: Option<Gprs>,
    pub status: Option<String>,
    #[serde(default = "once")]
    pub repeat: u64,
    pub label: Option<String>,
    #[serde(default)]
    pub volatile: Vec<TraceGpr>,
    #[serde(default)]
    pub capture: Names,
    #[serde(default)]
    pub from: Names,
    #[serde(default)]
    pub module_shutdown: bool,
    pub guest: Option<Vec<Act>>,
    pub xmm_in: Option<Box<[Hex128; 16]>>,
    pub xmm_out: Option<Xmms>,
}

fn once() -> u64 {
    1
}

impl Op {
    /// Checks what the types do not say; `lps` is the number of processors.
    pub(crate) fn check(&self, lps: u32) -> Result<(), String> {
        let lp_exists = |lp: u32| match lp < lps {
            true => Ok(()),
            false => Err(format!(
                "lp {lp}: expected one of the {lps} processors of the header"
            )),
        };
        match self {
            Op::Read { hex, ignore, .. } => check_ignore(ignore, hex.0.len()),
            Op::SetMsr { lp, msr, .. } if msr.0 > u32::MAX.into() => Err(format!(
                "lp {lp}, msr {:#x}: expected a 32-bit address",
                msr.0
            )),
            Op::SetMsr { lp, .. } => lp_exists(*lp),
            Op::IntrPending { lp, bits } if *bits > 7 => {
                Err(format!("lp {lp}, bits {bits}: expected bits 0 to 2 only"))
            }
            Op::IntrPending { lp, .. } => lp_exists(*lp),
            Op::Reset { cmrs, .. } => check_ranges(cmrs.as_deref().unwrap_or_default()),
            Op::Seamcall(call) => lp_exists(call.lp).and_then(|()| call.check(lps)),
            Op::Write { .. } | Op::Fill { .. } | Op::Note { .. } | Op::SetTsc { .. } => Ok(()),
            Op::EntropyFail { .. } | Op::PconfigResult { .. } => Ok(()),
        }
    }
}

impl Seamcall {
    fn check(&self, lps: u32) -> Result<(), String> {
        if self.input.get(Gpr::Rax).is_none() {
            return Err("in: expected rax, the leaf".into());
        }
        if self.repeat == 0
            || self.repeat > 1 && (self.guest.is_some() || !self.capture.0.is_empty())
        {
            return Err("repeat: expected 1 or more, and no guest or capture beside it".into());
        }
        match (&self.output, self.module_shutdown) {
            (Some(out), false) if out.get(Gpr::Rax).is_none() => {
                return Err("out: expected rax, the status".into());
            }
            (Some(_), false) | (None, true) => {}
            _ => return Err("expected either out or module_shutdown: true".into()),
        }
        if self.output.is_some() && self.status.is_none() {
            return Err("expected status beside out".into());
        }
        let Some(acts) = &self.guest else {
            return match self.xmm_out {
                Some(_) => Err("xmm_out: expected guest beside it".into()),
                None => Ok(()),
            };
        };
        if self.xmm_out.is_none() && !self.module_shutdown {
            return Err("guest: expected xmm_out beside it".into());
        }
        Act::check_list(acts, self.module_shutdown, lps, self.lp)
    }
}

/// An ignored range `[offset, length]` lies inside the bytes.
pub(crate) fn check_ignore(ignore: &[[usize; 2]], len: usize) -> Result<(), String> {
    let outside =
        |&&[offset, size]: &&[usize; 2]| offset.checked_add(size).is_none_or(|end| end > len);
    match ignore.iter().find(outside) {
        None => Ok(()),
        Some(range) => Err(format!(
            "ignore {range:?}: expected a range within {len} bytes"
        )),
    }
}
