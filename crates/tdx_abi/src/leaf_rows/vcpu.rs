//! Leaves of a vCPU: TDH.VP.*.

use super::{Interruption, LeafCategory, LeafLock, LeafOperand, LeafRow, LockMode, rows};
use crate::{OpState, Status};

rows! {
    0 "TDH.VP.ENTER" v[0] Vcpu "runs a vCPU until its TD exits"
        in["RCX" "TDVPR_HPA_AND_FLAGS" "TDVPR_HPA_AND_FLAGS", "RBX,RDX,RBP,RSI,RDI,R8-R15" "GPR values" "", "XMM0-XMM15" "XMM values" ""]
        out["RCX" "TD_EXIT_QUALIFICATION" "TD_EXIT_QUALIFICATION", "RDX" "EXTENDED_EXIT_QUALIFICATION" "EXTENDED_EXIT_QUALIFICATION", "R8" "GPA" "", "R9" "INTERRUPTION_INFO" "", "RBX,RBP,RSI,RDI,R8-R15" "GPRs" "", "XMM0-XMM15" "XMMs" ""]
        ops(Some(&[OpState::Runnable, OpState::LiveExport, OpState::LiveImport])) septs(None) Never
        locks["page (RCX)" Shared, "TDR (found through PAMT owner)" Shared, "OP_STATE (TDCS, host priority)" Shared, "TD epoch (TDCS)" Shared, "Secure EPT tree (TDCS)" Exclusive]
        true
        statuses[INCONSISTENT_MSR, INCORRECT_MSR_VALUE, L2_EXIT_HOST_ROUTED_ASYNC, L2_EXIT_HOST_ROUTED_TDVMCALL, LIMIT_CPUID_MAXVAL_SET, NON_RECOVERABLE_TD, OPERAND_BUSY, OPERAND_INVALID, TDCX_NUM_INCORRECT, TSC_ROLLBACK];

    4 "TDH.VP.ADDCX" v[0] Vcpu "gives the TDVPS one of its pages"
        in["RCX" "TDCX_HPA" "", "RDX" "TDVPR_HPA" ""]
        out[]
        ops(Some(&[OpState::Initialized, OpState::StateImport])) septs(None) Never
        locks["page (RDX)" Exclusive, "TDR (found through PAMT owner)" Shared, "OP_STATE (TDCS, host priority)" Shared, "page (RCX)" Exclusive]
        false
        statuses[TDCX_NUM_INCORRECT, VCPU_STATE_INCORRECT];

    10 "TDH.VP.CREATE" v[0] Vcpu "makes a vCPU: its TDVPR"
        in["RCX" "TDVPR_HPA" "", "RDX" "TDR_HPA" ""]
        out[]
        ops(Some(&[OpState::Initialized, OpState::StateImport])) septs(None) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "page (RCX)" Exclusive]
        false
        statuses[];

    18 "TDH.VP.FLUSH" v[0] Vcpu "frees a vCPU from this LP"
        in["RCX" "TDVPR_HPA" ""]
        out[]
        ops(Some(OpState::ALL)) septs(None) Never
        locks["page (RCX)" Exclusive, "TDR (found through PAMT owner)" Shared]
        false
        statuses[TDCX_NUM_INCORRECT, TD_KEYS_NOT_CONFIGURED, VCPU_NOT_ASSOCIATED];

    22 "TDH.VP.INIT" v[0] Vcpu "initializes a vCPU"
        in["RCX" "TDVPR_HPA" "", "RDX" "INITIAL_RCX" ""]
        out[]
        ops(Some(&[OpState::Initialized])) septs(None) Never
        locks["page (RCX)" Exclusive, "TDR (found through PAMT owner)" Shared, "OP_STATE (TDCS, host priority)" Shared]
        true
        statuses[INCONSISTENT_MSR, MAX_VCPUS_EXCEEDED, TDCX_NUM_INCORRECT, VCPU_STATE_INCORRECT];

    26 "TDH.VP.RD" v[0, 1] Vcpu "reads a field of a vCPU"
        in["RCX" "TDVPR_HPA" "", "RDX" "MD_FIELD_ID" "MD_FIELD_ID"]
        out["RDX" "NEXT_FIELD_ID" "", "R8" "VALUE" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(None) Never
        locks["page (RCX)" Shared, "TDR (found through PAMT owner)" Shared, "OP_STATE (TDCS, host priority)" Shared]
        true
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID, TDCX_NUM_INCORRECT];

    43 "TDH.VP.WR" v[0] Vcpu "writes a field of a vCPU"
        in["RCX" "TDVPR_HPA" "", "RDX" "MD_FIELD_ID" "MD_FIELD_ID", "R8" "DATA" "", "R9" "WRITE_MASK" ""]
        out["R8" "OLD_VALUE" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(None) Never
        locks["page (RCX)" Shared, "TDR (found through PAMT owner)" Shared, "OP_STATE (TDCS, host priority)" Shared]
        true
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID, TDCX_NUM_INCORRECT];
}
