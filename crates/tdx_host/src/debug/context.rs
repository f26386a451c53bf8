//! The register context of a stopped vCPU: read when first asked for, written back before it runs again.

use std::collections::BTreeMap;
use std::fmt;

use tdx_abi::Status;
use tdx_call::SeamcallLp;

use super::{Component, DebugReg};
use crate::{HostError, Vcpu};

/// A register cannot be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DebugError {
    /// The TD's ATTRIBUTES.DEBUG is 0: the module shows nobody its registers and memory.
    ProductionTd { what: String },
    /// The module lets a debugger read the register and not change it.
    ReadOnly { reg: DebugReg },
    /// The register holds no such value.
    BadValue { reg: DebugReg, value: u64 },
    /// The guest maps nothing there: the linear address, and how many bytes before it could be reached.
    NotMapped { linear: u64, reached: usize },
    /// The guest's page tables map it, and no private or shared page is behind it.
    NoPage { linear: u64, gpa: u64 },
    /// The TD's XFAM has no such state component.
    NoComponent { component: Component },
    /// The state component is in its initial configuration, and the module lets nobody change the XSAVE header that
    /// says so.
    InitialState { component: Component },
    /// Every debug-address register is in use.
    NoDebugRegister,
    /// The library itself failed.
    Host(HostError),
}

impl fmt::Display for DebugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProductionTd { what } => write!(
                f,
                "{what} of a production TD cannot be reached: its ATTRIBUTES.DEBUG is 0, and that is measured"
            ),
            Self::ReadOnly { reg } => write!(f, "{reg} ({:#018x}) is read-only", reg.field()),
            Self::BadValue { reg, value } => {
                write!(f, "{reg} ({:#018x}) does not take {value:#x}", reg.field())
            }
            Self::NotMapped { linear, .. } => {
                write!(f, "the guest's page tables map nothing at {linear:#x}")
            }
            Self::NoPage { linear, gpa } => {
                write!(f, "no page of the TD is behind {linear:#x} (GPA {gpa:#x})")
            }
            Self::NoComponent { component } => {
                write!(
                    f,
                    "the TD has no {component} registers: its XFAM leaves them out"
                )
            }
            Self::InitialState { component } => write!(
                f,
                "the guest has not used its {component} registers yet: they are in their initial configuration, and the \
                 XSAVE header that says so is read-only"
            ),
            Self::NoDebugRegister => f.write_str("all four debug-address registers are in use"),
            Self::Host(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for DebugError {}

impl From<HostError> for DebugError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    reg: DebugReg,
    value: u64,
    dirty: bool,
}

/// Registers of one stopped vCPU, cached.
#[derive(Clone, Default, Debug)]
pub struct DebugContext {
    cache: BTreeMap<u64, Cached>,
}

impl DebugContext {
    pub fn new() -> DebugContext {
        DebugContext::default()
    }

    /// The register's value.
    pub fn get<L: SeamcallLp>(
        &mut self,
        lp: &mut L,
        vcpu: &Vcpu,
        reg: DebugReg,
    ) -> Result<u64, DebugError> {
        if let Some(cached) = self.cache.get(&reg.field()) {
            return Ok(cached.value);
        }
        let value = vcpu
            .read_field(lp, reg.field())
            .map_err(|e| refused(reg, None, e))?;
        self.cache.insert(
            reg.field(),
            Cached {
                reg,
                value,
                dirty: false,
            },
        );
        Ok(value)
    }

    /// Changes the register; the vCPU has it when [`flush`](Self::flush) has run.
    pub fn set(&mut self, reg: DebugReg, value: u64) {
        self.cache.insert(
            reg.field(),
            Cached {
                reg,
                value,
                dirty: true,
            },
        );
    }

    /// Writes what was changed, and forgets everything: the vCPU may run.
    ///
    /// A register that the module refuses is reported after all others are written; it keeps its old value.
    pub fn flush<L: SeamcallLp>(&mut self, lp: &mut L, vcpu: &Vcpu) -> Result<(), DebugError> {
        let mut first = None;
        for cached in std::mem::take(&mut self.cache)
            .into_values()
            .filter(|c| c.dirty)
        {
            let Cached { reg, value, .. } = cached;
            if let Err(error) = vcpu.write_field(lp, reg.field(), value, u64::MAX) {
                first.get_or_insert(refused(reg, Some(value), error));
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Writes one register at once, so that the caller learns whether the module takes it.
    pub fn write<L: SeamcallLp>(
        &mut self,
        lp: &mut L,
        vcpu: &Vcpu,
        reg: DebugReg,
        value: u64,
    ) -> Result<(), DebugError> {
        vcpu.write_field(lp, reg.field(), value, u64::MAX)
            .map_err(|e| refused(reg, Some(value), e))?;
        // What the module made of it (reserved bits, bits it owns) is what the next read shows.
        self.cache.remove(&reg.field());
        Ok(())
    }
}

/// The module's refusal in the debugger's words.
fn refused(reg: DebugReg, value: Option<u64>, error: HostError) -> DebugError {
    match (error.code(), value) {
        (Some(Status::TD_NON_DEBUG), _) => DebugError::ProductionTd {
            what: reg.to_string(),
        },
        (Some(Status::METADATA_FIELD_NOT_READABLE), _) => DebugError::ProductionTd {
            what: reg.to_string(),
        },
        (Some(Status::METADATA_FIELD_NOT_WRITABLE), _) => DebugError::ReadOnly { reg },
        (Some(Status::METADATA_FIELD_VALUE_NOT_VALID), Some(value)) => {
            DebugError::BadValue { reg, value }
        }
        _ => DebugError::Host(error),
    }
}
