//! Leaves of a whole TD: TDH.MNG.*, TDH.MR.*, TDH.SERVTD.*.

use super::{Interruption, LeafCategory, LeafLock, LeafOperand, LeafRow, LockMode, rows};
use crate::{OpState, SeptState, Status};

rows! {
    1 "TDH.MNG.ADDCX" v[0] TdManagement "gives the TDCS one of its pages"
        in["RCX" "TDCX_HPA" "", "RDX" "TDR_HPA" ""]
        out[]
        ops(Some(&[OpState::Uninitialized])) septs(None) Never
        locks["TDR page (RDX)" Exclusive, "page (RCX)" Exclusive]
        false
        statuses[OP_STATE_INCORRECT, RND_NO_ENTROPY, TDCX_NUM_INCORRECT, TD_FATAL, TD_KEYS_NOT_CONFIGURED];

    8 "TDH.MNG.KEY.CONFIG" v[0] TdManagement "programs the TD's key on this package"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(None) septs(None) Never
        locks["TDR page (RCX)" Exclusive]
        false
        statuses[KEY_CONFIGURED, LIFECYCLE_STATE_INCORRECT, TD_FATAL];

    9 "TDH.MNG.CREATE" v[0] TdManagement "makes a TD: its TDR and its HKID"
        in["RCX" "TDR_HPA" "", "RDX" "HKID" "HKID_INPUT"]
        out[]
        ops(None) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "KOT" Exclusive]
        false
        statuses[HKID_NOT_FREE, OPERAND_BUSY, OPERAND_INVALID, RND_NO_ENTROPY];

    11 "TDH.MNG.RD" v[0, 1] TdManagement "reads a field of a TD"
        in["RCX" "TDR_HPA" "", "RDX" "MD_FIELD_ID" "MD_FIELD_ID"]
        out["RDX" "NEXT_FIELD_ID" "", "R8" "VALUE" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(None) Never
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Shared]
        false
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID];

    13 "TDH.MNG.WR" v[0] TdManagement "writes a field of a TD"
        in["RCX" "TDR_HPA" "", "RDX" "MD_FIELD_ID" "MD_FIELD_ID", "R8" "DATA" "", "R9" "WRITE_MASK" ""]
        out["R8" "OLD_VALUE" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(None) Never
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Shared]
        false
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, OPERAND_INVALID];

    16 "TDH.MR.EXTEND" v[0] Measurement "measures 256 bytes of a page into MRTD"
        in["RCX" "GPA" "", "RDX" "TDR_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO"]
        ops(Some(&[OpState::Initialized])) septs(Some(&[SeptState::Mapped])) Never
        locks["TDR page (RDX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied]
        false
        statuses[EPT_ENTRY_NOT_PRESENT, EPT_WALK_FAILED, OPERAND_INVALID];

    17 "TDH.MR.FINALIZE" v[0] Measurement "closes MRTD; from here the TD can run"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(Some(&[OpState::Initialized])) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied]
        false
        statuses[NO_VCPUS];

    19 "TDH.MNG.VPFLUSHDONE" v[0] TdManagement "checks that no vCPU is on an LP, and blocks the key"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(None) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "KOT" Exclusive]
        false
        statuses[FLUSHVP_NOT_DONE, LIFECYCLE_STATE_INCORRECT, OPERAND_BUSY];

    20 "TDH.MNG.KEY.FREEID" v[0] TdManagement "frees the TD's HKID once caches are written back"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(None) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "KOT" Exclusive]
        false
        statuses[LIFECYCLE_STATE_INCORRECT, OPERAND_BUSY, WBCACHE_NOT_COMPLETE];

    21 "TDH.MNG.INIT" v[0] TdManagement "initializes a TD from TD_PARAMS"
        in["RCX" "TDR_HPA" "", "RDX" "TD_PARAMS_HPA" "TD_PARAMS"]
        out["RCX" "CPUID_LEAF_SUBLEAF" ""]
        ops(Some(&[OpState::Uninitialized])) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied]
        false
        statuses[INCONSISTENT_MSR, INCORRECT_MSR_VALUE, LIMIT_CPUID_MAXVAL_SET, OPERAND_INVALID, TDCS_NOT_ALLOCATED];

    27 "TDH.MNG.KEY.RECLAIMID" v[0] TdManagement "does nothing; older VMMs call it"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[];

    48 "TDH.SERVTD.BIND" v[0] ServiceTd "binds a service TD to a TD"
        in["RCX" "TARGET_TDR_HPA" "", "RDX" "SERVTD_TDR_HPA" "", "R8" "SLOT" "", "R9" "SERVTD_TYPE" "", "R10" "SERVTD_ATTR" "SERVTD_ATTR"]
        out["RCX" "BINDING_HANDLE" "SERVTD_BINDING_HANDLE", "R10-R13" "TARGET_TD_UUID" ""]
        ops(Some(&[OpState::Uninitialized, OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PostImport, OpState::LiveImport])) septs(None) Never
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "TDR page (RDX)" Shared, "OP_STATE of the other TD" Shared, "service TD bindings (TDCS, host priority)" Exclusive]
        false
        statuses[OPERAND_BUSY, OPERAND_INVALID, OP_STATE_INCORRECT, SERVTD_ALREADY_BOUND_FOR_TYPE, SERVTD_ATTR_MISMATCH, SERVTD_INFO_HASH_MISMATCH, SERVTD_TYPE_MISMATCH, SERVTD_UUID_MISMATCH];

    49 "TDH.SERVTD.PREBIND" v[0] ServiceTd "keeps a slot for a service TD of a given hash"
        in["RCX" "TARGET_TDR_HPA" "", "RDX" "SERVTD_INFO_HASH_HPA" "", "R8" "SLOT" "", "R9" "SERVTD_TYPE" "", "R10" "SERVTD_ATTR" "SERVTD_ATTR"]
        out[]
        ops(Some(&[OpState::Uninitialized, OpState::Initialized])) septs(None) Never
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "service TD bindings (TDCS, host priority)" Exclusive]
        false
        statuses[OPERAND_INVALID, SERVTD_ALREADY_BOUND_FOR_TYPE, SERVTD_BOUND];
}
