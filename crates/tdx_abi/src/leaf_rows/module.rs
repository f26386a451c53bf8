//! Leaves of the module itself: TDH.SYS.*.

use super::{Interruption, LeafCategory, LeafLock, LeafOperand, LeafRow, LockMode, rows};
use crate::Status;

rows! {
    31 "TDH.SYS.KEY.CONFIG" v[0] Module "programs the module's key on this package"
        in[]
        out[]
        ops(None) septs(None) Never
        locks["module global lock" Exclusive]
        false
        statuses[KEY_CONFIGURED, SYS_BUSY, SYS_KEY_CONFIG_NOT_PENDING];

    32 "TDH.SYS.INFO" v[0] Module "describes module and platform in one structure"
        in["RCX" "TDSYSINFO_HPA" "TDSYSINFO_STRUCT", "RDX" "BUFFER_SIZE" "", "R8" "CMR_INFO_HPA" "CMR_INFO", "R9" "NUM_CMR_ENTRIES" ""]
        out["RDX" "BYTES_WRITTEN" "", "R9" "NUM_CMR_ENTRIES" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[OPERAND_INVALID, SYS_LP_INIT_NOT_DONE];

    33 "TDH.SYS.INIT" v[0] Module "begins the module's initialization"
        in["RCX" "SYS_ATTRIBUTES" ""]
        out["RCX" "CPUID_LEAF_SUBLEAF" "", "RDX" "MASK_LOW" "", "R8" "MASK_HIGH" "", "R9" "EXPECTED_LOW" "", "R10" "EXPECTED_HIGH" ""]
        ops(None) septs(None) Never
        locks["module global lock" Exclusive]
        false
        statuses[CMR_LIST_INVALID, CPUID_LEAF_1F_FORMAT_UNRECOGNIZED, CPUID_LEAF_NOT_SUPPORTED, INCOMPATIBLE_SEAM_CAPABILITIES, INCONSISTENT_MSR, INCORRECT_CPUID_VALUE, INCORRECT_MSR_VALUE, INVALID_SMRR_CONFIGURATION, INVALID_WBINVD_SCOPE, LIMIT_CPUID_MAXVAL_SET, NUM_ACTIVATED_HKIDS_NOT_SUPPORTED, OPERAND_INVALID, RND_NO_ENTROPY, SMRR_LOCK_NOT_SUPPORTED, SMRR_NOT_LOCKED, SMRR_NOT_SUPPORTED, SMRR_OVERLAPS_CMR, SYS_BUSY, SYS_INCOMPATIBLE_SIGSTRUCT, SYS_INIT_NOT_PENDING];

    34 "TDH.SYS.RD" v[0] Module "reads a field of the module"
        in["RDX" "MD_FIELD_ID" "MD_FIELD_ID"]
        out["RDX" "NEXT_FIELD_ID" "", "R8" "VALUE" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[METADATA_FIRST_FIELD_ID_IN_CONTEXT, SYS_LP_INIT_NOT_DONE];

    35 "TDH.SYS.LP.INIT" v[0] Module "initializes this LP"
        in[]
        out["RCX" "CPUID_LEAF_SUBLEAF" "", "RDX" "SAME_MASK_LOW" "", "R8" "SAME_MASK_HIGH" ""]
        ops(None) septs(None) Never
        locks["module global lock" Shared]
        false
        statuses[INCOMPATIBLE_SEAM_CAPABILITIES, INCONSISTENT_CPUID_FIELD, INCONSISTENT_MSR, INVALID_PKG_ID, LIMIT_CPUID_MAXVAL_SET, RND_NO_ENTROPY, SYS_BUSY, SYS_LP_INIT_DONE, SYS_LP_INIT_NOT_PENDING];

    37 "TDH.SYS.RDALL" v[0] Module "writes a list of the module's fields"
        in["RDX" "MD_LIST_HPA" "MD_LIST_HEADER", "R8" "FIRST_FIELD_ID" "MD_FIELD_ID"]
        out["R8" "NEXT_FIELD_ID" ""]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[SYS_LP_INIT_NOT_DONE];

    44 "TDH.SYS.LP.SHUTDOWN" v[0] Module "does nothing; older VMMs call it"
        in[]
        out[]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[];

    45 "TDH.SYS.CONFIG" v[0] Module "gives the module its TDMRs, PAMTs and HKID"
        in["RCX" "TDMR_INFO_PTR_ARRAY_HPA" "TDMR_INFO", "RDX" "NUM_TDMRS" "", "R8" "GLOBAL_HKID" "HKID_INPUT"]
        out[]
        ops(None) septs(None) Never
        locks["module global lock" Exclusive]
        false
        statuses[INVALID_PAMT, INVALID_RESERVED_IN_TDMR, INVALID_TDMR, NON_ORDERED_RESERVED_IN_TDMR, NON_ORDERED_TDMR, OPERAND_INVALID, PAMT_OUTSIDE_CMRS, PAMT_OVERLAP, SYS_BUSY, SYS_CONFIG_NOT_PENDING, TDMR_OUTSIDE_CMRS];

    52 "TDH.SYS.SHUTDOWN" v[0] Module "stops the module and leaves its state for the next"
        in["RCX" "HANDOFF_VERSION" ""]
        out[]
        ops(None) septs(None) Never
        locks["module global lock" Exclusive]
        false
        statuses[OPERAND_INVALID, SYS_BUSY];

    53 "TDH.SYS.UPDATE" v[0] Module "takes over the state of the module before"
        in[]
        out[]
        ops(None) septs(None) Never
        locks["module global lock" Exclusive]
        false
        statuses[OPERAND_INVALID, SYS_BUSY, SYS_INVALID_HANDOFF, SYS_STATE_INCORRECT];
}
