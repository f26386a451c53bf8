//! What can go wrong on the host's side, with the class that an ioctl would answer and the module's own word.

use core::fmt;
use tdx_abi::Status;
use tdx_call::{CallError, Leaf, NoSeam, OutsideMemory};
use x86_arch::{Gpa, Hkid, Hpa};

/// Linux's error classes, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Errno {
    Io = 5,
    Again = 11,
    NoMemory = 12,
    Access = 13,
    Fault = 14,
    Busy = 16,
    Exists = 17,
    NoDevice = 19,
    Invalid = 22,
    NoSpace = 28,
    NotSupported = 95,
}

/// A host-side failure. [`HostError::errno`] gives the class, [`HostError::raw`] the module's 64-bit status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostError {
    /// The SEAMCALL reached no module.
    NoSeam {
        leaf: Leaf,
        why: NoSeam,
    },
    /// The module refused; RCX and RDX after the call often say where.
    Refused {
        leaf: Leaf,
        status: Status,
        rcx: u64,
        rdx: u64,
    },
    /// The module's metadata has a value that this library cannot work with.
    Metadata {
        field: u64,
        value: u64,
    },
    /// No memory range is large enough for a TDMR and its PAMT.
    NoUsableMemory,
    /// TDH.SYS.TDMR.INIT goes on succeeding without an end.
    TdmrStuck(Hpa),
    /// Fewer than two private key IDs: one is the module's own.
    NoPrivateKeys,
    /// The packages of the processors and of the module disagree.
    NoProcessors,
    OutOfPages,
    OutOfHkids,
    /// Host memory that should exist does not.
    Memory(OutsideMemory),
    /// A setting of the TD that this module does not allow: the name and the offending bits.
    Setting {
        name: &'static str,
        bits: u64,
    },
    /// A GPA (range) outside the TD's memory, on the wrong half, or misaligned.
    BadRange {
        gpa: Gpa,
        size: u64,
    },
    /// The private page exists already.
    AlreadyMapped(Gpa),
    /// The private page does not exist.
    NotMapped(Gpa),
    /// The act does not fit the TD's stage (a page added after finalizing, a run before it).
    WrongStage {
        wanted: &'static str,
    },
    /// A vCPU is still held by its user.
    VcpuInUse {
        index: u32,
    },
    /// What teardown could not get back, and the failure that kept it.
    Leaked(Box<Leak>),
}

/// What stayed with the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leak {
    /// 4 KiB pages, and one of them.
    pub pages: u64,
    pub first: Hpa,
    /// The key ID, unless the module freed it.
    pub hkid: Option<Hkid>,
    /// The call that kept them.
    pub cause: HostError,
    /// Why the TD was taken down, where that was a failure itself.
    pub after: Option<HostError>,
}

impl HostError {
    /// The class an ioctl would return.
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoSeam { why, .. } => match why {
                NoSeam::VmFailInvalid => Errno::NoDevice,
                NoSeam::GeneralProtection => Errno::NotSupported,
                NoSeam::InvalidOpcode => Errno::Access,
            },
            Self::Refused { status, .. } => match status.code() {
                Status::OPERAND_BUSY
                | Status::SYS_BUSY
                | Status::PREVIOUS_TLB_EPOCH_BUSY
                | Status::OPERAND_BUSY_HOST_PRIORITY => Errno::Busy,
                Status::RND_NO_ENTROPY
                | Status::KEY_GENERATION_FAILED
                | Status::INTERRUPTED_RESUMABLE
                | Status::INTERRUPTED_RESTARTABLE => Errno::Again,
                Status::OPERAND_INVALID => Errno::Invalid,
                _ => Errno::Io,
            },
            Self::Metadata { .. } => Errno::NotSupported,
            Self::NoUsableMemory | Self::OutOfPages => Errno::NoMemory,
            Self::NoPrivateKeys | Self::NoProcessors => Errno::NoDevice,
            Self::OutOfHkids => Errno::NoSpace,
            Self::Memory(_) => Errno::Fault,
            Self::Setting { .. } | Self::BadRange { .. } | Self::WrongStage { .. } => {
                Errno::Invalid
            }
            Self::AlreadyMapped(_) => Errno::Exists,
            Self::NotMapped(_) => Errno::Fault,
            Self::VcpuInUse { .. } => Errno::Busy,
            Self::Leaked(_) | Self::TdmrStuck(_) => Errno::Io,
        }
    }

    /// RAX of the call that failed, if a module gave one.
    pub fn raw(&self) -> Option<u64> {
        match self {
            Self::Refused { status, .. } => Some(status.raw()),
            Self::Leaked(leak) => leak.cause.raw(),
            _ => None,
        }
    }

    /// The module's status without its details, if a module gave one.
    pub fn code(&self) -> Option<Status> {
        match self {
            Self::Refused { status, .. } => Some(status.code()),
            _ => None,
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSeam { leaf, why } => write!(f, "{leaf}: {why}"),
            Self::Refused {
                leaf,
                status,
                rcx,
                rdx,
            } => {
                write!(f, "{leaf}: {status} [{:#018x}]", status.raw())?;
                if *rcx != 0 || *rdx != 0 {
                    write!(f, ", RCX {rcx:#x}, RDX {rdx:#x}")?;
                }
                Ok(())
            }
            Self::Metadata { field, value } => {
                write!(
                    f,
                    "module field {field:#018x} holds {value:#x}, which no host can use"
                )
            }
            Self::NoUsableMemory => f.write_str("no convertible memory is large enough for a TDMR"),
            Self::TdmrStuck(base) => write!(f, "the TDMR at {base} is never initialised"),
            Self::NoPrivateKeys => f.write_str("fewer than two private key IDs"),
            Self::NoProcessors => f.write_str("no processor was given"),
            Self::OutOfPages => f.write_str("no free TDX memory is left"),
            Self::OutOfHkids => f.write_str("every private key ID is in use"),
            Self::Memory(OutsideMemory(hpa)) => write!(f, "{hpa} is not host memory"),
            Self::Setting { name, bits } => {
                write!(f, "{name}: this module does not allow {bits:#x}")
            }
            Self::BadRange { gpa, size } => {
                write!(f, "GPA {gpa} for {size:#x} bytes is no memory of this TD")
            }
            Self::AlreadyMapped(gpa) => write!(f, "GPA {gpa} is mapped already"),
            Self::NotMapped(gpa) => write!(f, "GPA {gpa} is not mapped"),
            Self::WrongStage { wanted } => write!(f, "the TD is not {wanted}"),
            Self::VcpuInUse { index } => write!(f, "vCPU {index} is still in use"),
            Self::Leaked(leak) => leak.fmt(f),
        }
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leak {
            pages,
            first,
            cause,
            ..
        } = self;
        if let Some(after) = &self.after {
            write!(f, "{after}; then ")?;
        }
        write!(f, "{pages} pages are lost from {first} on")?;
        if let Some(hkid) = self.hkid {
            write!(f, ", and key ID {hkid}")?;
        }
        write!(f, ": {cause}")
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Leaked(leak) => Some(&leak.cause),
            _ => None,
        }
    }
}

impl From<CallError> for HostError {
    fn from(failure: CallError) -> Self {
        match failure {
            CallError::NoSeam { leaf, why } => Self::NoSeam { leaf, why },
            CallError::Refused(refused) => Self::Refused {
                leaf: refused.leaf,
                status: refused.status,
                rcx: refused.words[0],
                rdx: refused.words[1],
            },
        }
    }
}

impl From<OutsideMemory> for HostError {
    fn from(outside: OutsideMemory) -> Self {
        Self::Memory(outside)
    }
}
