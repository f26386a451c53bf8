//! TDCALL leaves: TDG.*.

use super::{Interruption, LeafCategory, LeafLock, LeafOperand, LeafRow, LockMode, rows};
use crate::{OpState, SeptState, Status};

rows! {
    0 "TDG.VP.VMCALL" v[0] Vmcall "asks the VMM for a service"
        in["RCX" "CONTROL" "TDVMCALL_CONTROL", "RBX,RDX,RBP,RSI,RDI,R8-R15" "values" "", "XMM0-XMM15" "values" ""]
        out["RBX,RDX,RBP,RSI,RDI,R8-R15" "values" "", "XMM0-XMM15" "values" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[OPERAND_INVALID];

    1 "TDG.VP.INFO" v[0] Vcpu "tells what the TD runs on"
        in[]
        out["RCX" "GPAW" "GPAW_INFO", "RDX" "ATTRIBUTES" "ATTRIBUTES", "R8" "NUM_VCPUS" "NUM_VCPUS_INFO", "R9" "VCPU_INDEX" "", "R10" "COMMANDS_AVAILABLE" "TDG_COMMANDS_AVAILABLE", "R11" "0" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[OPERAND_INVALID];

    2 "TDG.MR.RTMR.EXTEND" v[0] Measurement "extends an RTMR"
        in["RCX" "DATA_GPA" "", "RDX" "INDEX" ""]
        out[]
        ops(None) septs(None) Never
        locks["RTMR lock (TDCS, host priority)" Exclusive]
        false
        statuses[OPERAND_INVALID];

    3 "TDG.VP.VEINFO.GET" v[0] Vcpu "fetches what caused the last #VE"
        in[]
        out["RCX" "EXIT_REASON" "", "RDX" "EXIT_QUALIFICATION" "", "R8" "GLA" "", "R9" "GPA" "", "R10" "INSTRUCTION" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[NO_VALID_VE_INFO, OPERAND_INVALID];

    4 "TDG.MR.REPORT" v[0] Measurement "makes a TDREPORT"
        in["RCX" "REPORT_GPA" "TDREPORT_STRUCT", "RDX" "REPORTDATA_GPA" "REPORTDATA", "R8" "SUBTYPE" ""]
        out[]
        ops(None) septs(None) Reexecuted
        locks[]
        false
        statuses[NON_RECOVERABLE_TD_CORRUPTED_MD, OPERAND_INVALID];

    5 "TDG.VP.CPUIDVE.SET" v[0] Vcpu "lets every CPUID give a #VE"
        in["RCX" "CONTROL" ""]
        out[]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[OPERAND_INVALID];

    6 "TDG.MEM.PAGE.ACCEPT" v[0] PrivateMemory "accepts a page, which is zero then"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING"]
        out[]
        ops(None) septs(Some(&[SeptState::Pending, SeptState::PendingExportedDirty])) Reexecuted
        locks["Secure EPT entry, guest side" Exclusive]
        false
        statuses[OPERAND_BUSY, OPERAND_INVALID, PAGE_ALREADY_ACCEPTED, PAGE_SIZE_MISMATCH];

    7 "TDG.VM.RD" v[0, 1] Metadata "reads a field of the TD"
        in["RCX" "VM_ID" "", "RDX" "MD_FIELD_ID" "MD_FIELD_ID"]
        out["RDX" "NEXT_FIELD_ID" "", "R8" "VALUE" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID];

    8 "TDG.VM.WR" v[0] Metadata "writes a field of the TD"
        in["RCX" "VM_ID" "", "RDX" "MD_FIELD_ID" "MD_FIELD_ID", "R8" "DATA" "", "R9" "WRITE_MASK" ""]
        out["R8" "OLD_VALUE" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID];

    9 "TDG.VP.RD" v[0] Metadata "reads a field of this vCPU"
        in["RCX" "0" "", "RDX" "MD_FIELD_ID" "MD_FIELD_ID"]
        out["RDX" "NEXT_FIELD_ID" "", "R8" "VALUE" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID];

    10 "TDG.VP.WR" v[0] Metadata "writes a field of this vCPU"
        in["RCX" "0" "", "RDX" "MD_FIELD_ID" "MD_FIELD_ID", "R8" "DATA" "", "R9" "WRITE_MASK" ""]
        out["R8" "OLD_VALUE" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID];

    11 "TDG.SYS.RD" v[0] Metadata "reads a field of the module"
        in["RDX" "MD_FIELD_ID" "MD_FIELD_ID"]
        out["RDX" "NEXT_FIELD_ID" "", "R8" "VALUE" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT];

    12 "TDG.SYS.RDALL" v[0] Metadata "writes a list of the module's fields"
        in["RDX" "MD_LIST_GPA" "MD_LIST_HEADER", "R8" "FIRST_FIELD_ID" "MD_FIELD_ID"]
        out["R8" "NEXT_FIELD_ID" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[OPERAND_INVALID];

    18 "TDG.SERVTD.RD" v[0] ServiceTd "reads a field of the TD it serves"
        in["RCX" "BINDING_HANDLE" "SERVTD_BINDING_HANDLE", "RDX" "MD_FIELD_ID" "MD_FIELD_ID", "R10-R13" "TARGET_TD_UUID" ""]
        out["RDX" "NEXT_FIELD_ID" "", "R8" "VALUE" "", "R10-R13" "TARGET_TD_UUID" ""]
        ops(Some(OpState::ALL)) septs(None) Never
        locks["target TDR page (from the binding handle)" Shared, "OP_STATE of the other TD" Shared, "service TD bindings (TDCS, host priority)" Shared]
        false
        statuses[CROSS_TD_TRAP, METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_BUSY, OPERAND_INVALID, SERVTD_INFO_HASH_MISMATCH, SERVTD_NOT_BOUND, SERVTD_UUID_MISMATCH, TARGET_UUID_MISMATCH, TARGET_UUID_UPDATED];

    20 "TDG.SERVTD.WR" v[0] ServiceTd "writes a field of the TD it serves"
        in["RCX" "BINDING_HANDLE" "SERVTD_BINDING_HANDLE", "RDX" "MD_FIELD_ID" "MD_FIELD_ID", "R8" "DATA" "", "R9" "WRITE_MASK" "", "R10-R13" "TARGET_TD_UUID" ""]
        out["R8" "OLD_VALUE" "", "R10-R13" "TARGET_TD_UUID" ""]
        ops(Some(&[OpState::Uninitialized, OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(None) Never
        locks["target TDR page (from the binding handle)" Shared, "OP_STATE of the other TD" Shared, "service TD bindings (TDCS, host priority)" Shared]
        false
        statuses[CROSS_TD_TRAP, METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_BUSY, OPERAND_INVALID, SERVTD_INFO_HASH_MISMATCH, SERVTD_NOT_BOUND, SERVTD_UUID_MISMATCH, TARGET_UUID_MISMATCH, TARGET_UUID_UPDATED];

    22 "TDG.MR.VERIFYREPORT" v[0] Measurement "checks a report made on this platform"
        in["RCX" "REPORTMAC_GPA" "REPORTMACSTRUCT"]
        out[]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[INVALID_CPUSVN, INVALID_REPORTMACSTRUCT, OPERAND_INVALID];

    23 "TDG.MEM.PAGE.ATTR.RD" v[0] PrivateMemory "reads a page's attributes"
        in["RCX" "GPA" ""]
        out["RCX" "GPA_MAPPING_AND_FLAGS" "GPA_MAPPING_AND_FLAGS", "RDX" "GPA_ATTR" "GPA_ATTR"]
        ops(None) septs(Some(&[SeptState::Mapped, SeptState::Blockedw, SeptState::ExportedBlockedw, SeptState::ExportedDirty, SeptState::ExportedDirtyBlockedw, SeptState::Pending, SeptState::PendingBlockedw, SeptState::PendingExportedBlockedw, SeptState::PendingExportedDirty, SeptState::PendingExportedDirtyBlockedw])) Never
        locks["Secure EPT entry, guest side" Exclusive]
        false
        statuses[OPERAND_INVALID];

    24 "TDG.MEM.PAGE.ATTR.WR" v[0] PrivateMemory "sets what L2 VMs may do with a page"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "GPA_ATTR" "GPA_ATTR", "R8" "ATTR_FLAGS" "ATTR_FLAGS"]
        out["RCX" "GPA_MAPPING_AND_FLAGS" "GPA_MAPPING_AND_FLAGS", "RDX" "GPA_ATTR" "GPA_ATTR"]
        ops(None) septs(Some(&[SeptState::Mapped, SeptState::ExportedDirty, SeptState::Pending, SeptState::PendingExportedDirty])) Never
        locks["Secure EPT entry, guest side" Exclusive]
        false
        statuses[L2_SEPT_WALK_FAILED, OPERAND_INVALID, PAGE_ATTR_INVALID, PAGE_SIZE_MISMATCH];

    25 "TDG.VP.ENTER" v[0] TdPartitioning "runs an L2 VM"
        in["RCX" "VM_AND_FLAGS" "", "RDX" "L2_GUEST_STATE_GPA" "L2_ENTER_GUEST_STATE"]
        out["RCX" "EXIT_QUALIFICATION" "", "RDX" "GLA" "", "RSI" "CS_DETAILS" "L2_ENTER_SEG_DETAILS", "RDI" "CS_BASE" "", "R8" "GPA" "", "R9" "INTERRUPTION" "", "R10" "IDT_VECTORING" "", "R11" "INSTRUCTION" "", "R12" "ADDITIONAL_INFO" "L2_ENTER_ADDITIONAL_EXIT_INFO", "R13" "EXTENDED_EXIT_QUALIFICATION" "L2_EXTENDED_EXIT_QUALIFICATION", "RBX,R14,R15" "0" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[OPERAND_INVALID, PENDING_INTERRUPT, TD_EXIT_BEFORE_L2_ENTRY];

    26 "TDG.VP.INVEPT" v[0] TdPartitioning "flushes translations of L2 VMs"
        in["RCX" "VM_MASK" ""]
        out[]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[OPERAND_INVALID];

    27 "TDG.VP.INVVPID" v[0] TdPartitioning "flushes linear addresses of an L2 VM"
        in["RCX" "VM_AND_FLAGS" "", "RDX" "GLA_ENTRY_OR_LIST" "GLA_LIST_ENTRY or GLA_LIST_INFO"]
        out["RDX" "GLA_LIST_INFO" "GLA_LIST_INFO"]
        ops(None) septs(None) Reexecuted
        locks[]
        false
        statuses[GLA_NOT_CANONICAL, OPERAND_INVALID];
}
