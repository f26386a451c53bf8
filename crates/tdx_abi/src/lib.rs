//! Every number, layout and name of the Intel TDX module ABI 1.5; no behaviour.
//!
//! For whoever speaks to a TDX module, is one, or explains one. What a leaf does is not here:
//! `tdx_call` calls leaves and `tdx_module` implements them. Numbers that come from outside are open
//! types with named constants ([`Status`], [`HostLeaf`]); states are closed enums ([`OpState`], [`SeptState`]).
//! Structures are read and written with `from_bytes` and `to_bytes`; the compiler checks their offsets.
#![no_std]
#![forbid(unsafe_code)]

mod controls;
mod exits;
mod field_id;
mod gpa;
mod guest;
pub mod layout;
mod leaf;
mod leaf_rows;
pub mod metadata;
mod migration;
mod operand;
mod page_type;
mod report;
mod sept;
mod service_td;
mod states;
mod status;
mod status_rows;
mod sys_info;
mod td_params;
mod vmcall;

pub use controls::{CpuidControl, L2Ctls, L2DebugCtls, NotifyEnables, TdCtls, VmCtls};
pub use exits::{
    ExtendedExitInfo, ExtendedExitQualification, ExtendedExitQualificationType,
    L2ExtendedExitQualification, TdExitQualification, TdExitReason,
};
pub use field_id::{CpuidFieldCode, FieldContext, FieldId};
pub use gpa::{
    GpaAttr, GpaAttrs, GpaMapping, GpaMappingAndFlags, Gpaw, PageSizeOperand, level_name,
    level_size,
};
pub use guest::{Gprs, L2AdditionalExitInfo, L2EnterGuestState, L2SegmentDetails, VeInfo};
pub use leaf::{GuestLeaf, HostLeaf, LeafWord};
pub use leaf_rows::{
    Interruption, LeafCategory, LeafLock, LeafOperand, LeafRow, LockKind, LockMode,
};
pub use migration::{Mbmd, MbmdHeader, MigrationBundleType};
pub use operand::{
    GlaListEntry, GlaListInfo, GpaListEntry, GpaListInfo, GpawInfo, HkidOperand, HpaAndLast,
    HpaAndSize, MdListHeader, MigStreamAndCommand, NumVcpusInfo, PageListEntry, PageListInfo,
    TdgCommandsAvailable, TdrAndFlags, TdvprAndFlags, VmcsFieldCode,
};
pub use page_type::{Bepoch, PAMT_ENTRY_SIZE, PageType};
pub use report::{ReportMacStruct, ReportType, TdInfo, TdReport, TeeTcbInfo};
pub use sept::{L2SeptState, ReportedSeptState, SEPT_LEVELS, SeptEntry, SeptEntryInfo, SeptState};
pub use service_td::{
    IgnoreTdinfo, ServtdAttr, ServtdBinding, ServtdBindingHandle, ServtdBindingState,
};
pub use states::{KotState, LastTdExit, LifecycleState, ModuleState, OpState, VcpuState};
pub use status::{OperandId, Status};
pub use status_rows::{Advice, DetailsKind, STATUSES, StatusKind, StatusRow};
pub use sys_info::{CmrInfo, ReservedArea, SysInfoAttributes, TdSysInfo, TdmrInfo, TdxFeatures0};
pub use td_params::{
    Attributes, ConfigFlags, CpuidConfig, CpuidLeafSubleaf, CpuidValues, EptpControls,
    MsrConfigCtls, TdParams, Xfam,
};
pub use vmcall::{
    RegisterList, TdvmcallControl, VMCALLS, VmcallFunction, VmcallOperand, VmcallRow, VmcallStatus,
};

/// A SHA-384 digest: MRTD, an RTMR, a configuration id.
pub type Sha384 = [u8; 48];
