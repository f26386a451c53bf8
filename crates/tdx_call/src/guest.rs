//! Typed wrappers of the TDCALL leaves: one small function each, as in [`crate::host`].
//!
//! An interrupted TDCALL is never seen here: the processor executes the instruction again.

use tdx_abi::{GuestLeaf, LeafWord, Status};
use x86_arch::Gpa;

use crate::error::sort;
use crate::{CallError, FieldId, FieldValue, GpaMapping, Leaf, TdcallCpu, TdxModuleArgs, Traffic};

/// What TDG.VP.INFO tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VpInfo {
    /// Guest physical address width, 48 or 52.
    pub gpaw: u8,
    /// The ATTRIBUTES of the TD.
    pub attributes: u64,
    pub num_vcpus: u32,
    pub max_vcpus: u32,
    pub vcpu_index: u64,
    /// R10: bit 0, TDG.SYS.RD and RDALL exist.
    pub commands_available: u64,
}

/// What TDG.VP.VEINFO.GET tells of a virtualization exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VeInfo {
    pub exit_reason: u32,
    pub qualification: u64,
    pub gla: u64,
    pub gpa: u64,
    pub instruction_length: u32,
    pub instruction_info: u32,
}

/// RCX and RDX of the page-attribute leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageAttributes {
    /// GPA and level; bit 62 PENDING.
    pub mapping: GpaMapping,
    /// Sixteen bits for each of the four VMs.
    pub attributes: u64,
}

/// A request to the VMM: the registers in `args` that `mask` selects cross, both ways.
///
/// Mask bits 15:0 select general-purpose registers by their x86 number, 31:16 XMM registers. This wrapper passes
/// the twelve registers of [`TdxModuleArgs`]; bits 0, 1 and 4 are always refused, and RBP (bit 5) is not passed.
pub fn tdg_vp_vmcall<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    mask: u16,
    args: &mut TdxModuleArgs,
) -> Result<Status, CallError> {
    args.rcx = mask.into();
    call(cpu, GuestLeaf::VP_VMCALL.word(), args, Traffic::Saved)
}

/// TDG.VP.INFO: the TD as its guest sees it.
pub fn tdg_vp_info<C: TdcallCpu + ?Sized>(cpu: &mut C) -> Result<VpInfo, CallError> {
    let mut args = TdxModuleArgs::default();
    call(cpu, GuestLeaf::VP_INFO.word(), &mut args, Traffic::InOut)?;
    Ok(VpInfo {
        gpaw: (args.rcx & 0x3F) as u8,
        attributes: args.rdx,
        num_vcpus: args.r8 as u32,
        max_vcpus: (args.r8 >> 32) as u32,
        vcpu_index: args.r9,
        commands_available: args.r10,
    })
}

/// TDG.MR.RTMR.EXTEND: extends a run-time measurement register with 48 bytes at `data` (64-byte aligned).
pub fn tdg_mr_rtmr_extend<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    data: Gpa,
    index: u64,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: data.raw(),
        rdx: index,
        ..Default::default()
    };
    call(
        cpu,
        GuestLeaf::MR_RTMR_EXTEND.word(),
        &mut args,
        Traffic::In,
    )
}

/// TDG.VP.VEINFO.GET: takes the information of the virtualization exception that was delivered.
pub fn tdg_vp_veinfo_get<C: TdcallCpu + ?Sized>(cpu: &mut C) -> Result<VeInfo, CallError> {
    let mut args = TdxModuleArgs::default();
    call(
        cpu,
        GuestLeaf::VP_VEINFO_GET.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(VeInfo {
        exit_reason: args.rcx as u32,
        qualification: args.rdx,
        gla: args.r8,
        gpa: args.r9,
        instruction_length: args.r10 as u32,
        instruction_info: (args.r10 >> 32) as u32,
    })
}

/// TDG.MR.REPORT: writes a TDREPORT (1024-byte aligned) over 64 bytes of report data (64-byte aligned).
pub fn tdg_mr_report<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    report: Gpa,
    report_data: Gpa,
    subtype: u8,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: report.raw(),
        rdx: report_data.raw(),
        r8: subtype.into(),
        ..Default::default()
    };
    call(cpu, GuestLeaf::MR_REPORT.word(), &mut args, Traffic::In)
}

/// TDG.MR.VERIFYREPORT: checks that a REPORTMACSTRUCT (256-byte aligned) was made on this platform.
pub fn tdg_mr_verifyreport<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    report_mac: Gpa,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: report_mac.raw(),
        ..Default::default()
    };
    call(
        cpu,
        GuestLeaf::MR_VERIFYREPORT.word(),
        &mut args,
        Traffic::In,
    )
}

/// TDG.VP.CPUIDVE.SET: whether CPUID raises #VE in supervisor and in user mode.
pub fn tdg_vp_cpuidve_set<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    supervisor: bool,
    user: bool,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: u64::from(supervisor) | u64::from(user) << 1,
        ..Default::default()
    };
    call(
        cpu,
        GuestLeaf::VP_CPUIDVE_SET.word(),
        &mut args,
        Traffic::In,
    )
}

/// TDG.MEM.PAGE.ACCEPT: takes a pending page, 4 KiB or 2 MiB, and zeroes it.
pub fn tdg_mem_page_accept<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    mapping: GpaMapping,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        ..Default::default()
    };
    call(
        cpu,
        GuestLeaf::MEM_PAGE_ACCEPT.word(),
        &mut args,
        Traffic::In,
    )
}

/// TDG.MEM.PAGE.ATTR.RD: the mapping and the attributes of a page.
pub fn tdg_mem_page_attr_rd<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    gpa: Gpa,
) -> Result<PageAttributes, CallError> {
    let mut args = TdxModuleArgs {
        rcx: gpa.raw(),
        ..Default::default()
    };
    call(
        cpu,
        GuestLeaf::MEM_PAGE_ATTR_RD.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(attributes(&args))
}

/// TDG.MEM.PAGE.ATTR.WR: changes the attributes of a page for L2 VMs; `flags` is mask and INVEPT bit for each VM.
pub fn tdg_mem_page_attr_wr<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    mapping: GpaMapping,
    new: u64,
    flags: u64,
) -> Result<PageAttributes, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: new,
        r8: flags,
        ..Default::default()
    };
    call(
        cpu,
        GuestLeaf::MEM_PAGE_ATTR_WR.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(attributes(&args))
}

/// TDG.VM.RD: one metadata field of the own TD.
pub fn tdg_vm_rd<C: TdcallCpu + ?Sized>(cpu: &mut C, field: FieldId) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rdx: field.0,
        ..Default::default()
    };
    call(cpu, GuestLeaf::VM_RD.word(), &mut args, Traffic::InOut)?;
    Ok(args.r8)
}

/// TDG.VM.RD version 1: one metadata field of the own TD, and the id of the next.
pub fn tdg_vm_rd_next<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    field: FieldId,
) -> Result<FieldValue, CallError> {
    field_and_next(cpu, LeafWord::new(GuestLeaf::VM_RD.0, 1), field)
}

/// TDG.VM.WR: changes the bits of `mask` in a metadata field of the own TD; returns the old value.
pub fn tdg_vm_wr<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    field: FieldId,
    data: u64,
    mask: u64,
) -> Result<u64, CallError> {
    field_write(cpu, GuestLeaf::VM_WR.word(), field, data, mask)
}

/// TDG.VP.RD: one metadata field of the own vCPU, and the id of the next.
pub fn tdg_vp_rd<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    field: FieldId,
) -> Result<FieldValue, CallError> {
    field_and_next(cpu, GuestLeaf::VP_RD.word(), field)
}

/// TDG.VP.WR: changes the bits of `mask` in a metadata field of the own vCPU; returns the old value.
pub fn tdg_vp_wr<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    field: FieldId,
    data: u64,
    mask: u64,
) -> Result<u64, CallError> {
    field_write(cpu, GuestLeaf::VP_WR.word(), field, data, mask)
}

/// TDG.SYS.RD: one system metadata field, and the id of the next.
pub fn tdg_sys_rd<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    field: FieldId,
) -> Result<FieldValue, CallError> {
    field_and_next(cpu, GuestLeaf::SYS_RD.word(), field)
}

/// TDG.SYS.RDALL: as many system metadata fields as fit the 4 KiB list; returns the id to go on with.
pub fn tdg_sys_rdall<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    list: Gpa,
    first: FieldId,
) -> Result<FieldId, CallError> {
    let mut args = TdxModuleArgs {
        rdx: list.raw(),
        r8: first.0,
        ..Default::default()
    };
    call(cpu, GuestLeaf::SYS_RDALL.word(), &mut args, Traffic::InOut)?;
    Ok(FieldId(args.r8))
}

/// TDG.SERVTD.RD: a service TD reads a metadata field of its target; returns the field and the target's UUID.
pub fn tdg_servtd_rd<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    binding: u64,
    field: FieldId,
    uuid: [u64; 4],
) -> Result<(FieldValue, [u64; 4]), CallError> {
    let mut args = servtd(binding, field, uuid);
    call(cpu, GuestLeaf::SERVTD_RD.word(), &mut args, Traffic::Saved)?;
    Ok((value(&args), [args.r10, args.r11, args.r12, args.r13]))
}

/// TDG.SERVTD.WR: a service TD writes a metadata field of its target; returns the old value and the target's UUID.
pub fn tdg_servtd_wr<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    binding: u64,
    field: FieldId,
    data: u64,
    mask: u64,
    uuid: [u64; 4],
) -> Result<(u64, [u64; 4]), CallError> {
    let mut args = servtd(binding, field, uuid);
    args.r8 = data;
    args.r9 = mask;
    call(cpu, GuestLeaf::SERVTD_WR.word(), &mut args, Traffic::Saved)?;
    Ok((args.r8, [args.r10, args.r11, args.r12, args.r13]))
}

/// TDG.VP.ENTER: runs an L2 VM; returns RAX and the exit words in RCX to R15.
///
/// `vm_and_flags`: invalidation in 1:0, VM index in 53:52. `state` is the L2 state page (256-byte aligned).
pub fn tdg_vp_enter<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    vm_and_flags: u64,
    state: Gpa,
) -> Result<(Status, TdxModuleArgs), CallError> {
    let mut args = TdxModuleArgs {
        rcx: vm_and_flags,
        rdx: state.raw(),
        ..Default::default()
    };
    let status = call(cpu, GuestLeaf::VP_ENTER.word(), &mut args, Traffic::Saved)?;
    Ok((status, args))
}

/// TDG.VP.INVEPT: drops the EPT translations of the L2 VMs in `vms` (bit n is VM n).
pub fn tdg_vp_invept<C: TdcallCpu + ?Sized>(cpu: &mut C, vms: u8) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: vms.into(),
        ..Default::default()
    };
    call(cpu, GuestLeaf::VP_INVEPT.word(), &mut args, Traffic::In)
}

/// TDG.VP.INVVPID: drops linear translations of an L2 VM; returns the list word with its first entry advanced.
pub fn tdg_vp_invvpid<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    vm_and_flags: u64,
    entry_or_list: u64,
) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rcx: vm_and_flags,
        rdx: entry_or_list,
        ..Default::default()
    };
    call(cpu, GuestLeaf::VP_INVVPID.word(), &mut args, Traffic::InOut)?;
    Ok(args.rdx)
}

/// Any leaf, sorted into success and error.
pub fn call<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    leaf: LeafWord,
    args: &mut TdxModuleArgs,
    traffic: Traffic,
) -> Result<Status, CallError> {
    let answer = cpu.tdcall(leaf, args, traffic);
    sort(Leaf::guest(leaf), answer, args)
}

fn field_and_next<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    leaf: LeafWord,
    field: FieldId,
) -> Result<FieldValue, CallError> {
    let mut args = TdxModuleArgs {
        rdx: field.0,
        ..Default::default()
    };
    call(cpu, leaf, &mut args, Traffic::InOut)?;
    Ok(value(&args))
}

fn field_write<C: TdcallCpu + ?Sized>(
    cpu: &mut C,
    leaf: LeafWord,
    field: FieldId,
    data: u64,
    mask: u64,
) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rdx: field.0,
        r8: data,
        r9: mask,
        ..Default::default()
    };
    call(cpu, leaf, &mut args, Traffic::InOut)?;
    Ok(args.r8)
}

fn servtd(binding: u64, field: FieldId, uuid: [u64; 4]) -> TdxModuleArgs {
    TdxModuleArgs {
        rcx: binding,
        rdx: field.0,
        r10: uuid[0],
        r11: uuid[1],
        r12: uuid[2],
        r13: uuid[3],
        ..Default::default()
    }
}

fn value(args: &TdxModuleArgs) -> FieldValue {
    FieldValue {
        value: args.r8,
        next: FieldId(args.rdx),
    }
}

fn attributes(args: &TdxModuleArgs) -> PageAttributes {
    PageAttributes {
        mapping: GpaMapping(args.rcx),
        attributes: args.rdx,
    }
}
