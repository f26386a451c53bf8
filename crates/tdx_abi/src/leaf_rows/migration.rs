//! Leaves of migration: TDH.EXPORT.*, TDH.IMPORT.*, TDH.MIG.*.

use super::{Interruption, LeafCategory, LeafLock, LeafOperand, LeafRow, LockMode, rows};
use crate::{OpState, SeptState, Status};

rows! {
    64 "TDH.EXPORT.ABORT" v[0] Migration "ends an export that is not completed"
        in["RCX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R10" "MIGS_INDEX" "MIGS_INDEX_AND_COMMAND"]
        out[]
        ops(Some(&[OpState::LiveExport, OpState::PausedExport, OpState::PostExport])) septs(None) Never
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Exclusive, "migration lock (TDCS)" Exclusive, "migration stream link" Mutex]
        false
        statuses[INCORRECT_MBMD_MAC, INVALID_MBMD, OPERAND_BUSY, OPERAND_INVALID];

    65 "TDH.EXPORT.BLOCKW" v[0] Migration "blocks pages for writing"
        in["RCX" "GPA_LIST_INFO" "GPA_LIST_INFO", "RDX" "TDR_HPA" ""]
        out["RCX" "GPA_LIST_INFO" "GPA_LIST_INFO"]
        ops(Some(&[OpState::LiveExport])) septs(Some(&[SeptState::Mapped, SeptState::ExportedDirty, SeptState::Pending, SeptState::PendingExportedDirty])) Resumable
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[INTERRUPTED_RESUMABLE, OPERAND_BUSY, OPERAND_INVALID];

    66 "TDH.EXPORT.RESTORE" v[0] Migration "makes exported pages ordinary ones again"
        in["RCX" "GPA_LIST_INFO" "GPA_LIST_INFO", "RDX" "TDR_HPA" ""]
        out["RCX" "GPA_LIST_INFO" "GPA_LIST_INFO"]
        ops(Some(&[OpState::Runnable])) septs(Some(&[SeptState::ExportedBlockedw, SeptState::ExportedDirty, SeptState::ExportedDirtyBlockedw, SeptState::PendingExportedBlockedw, SeptState::PendingExportedDirty, SeptState::PendingExportedDirtyBlockedw])) Resumable
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[INTERRUPTED_RESUMABLE, OPERAND_BUSY, OPERAND_INVALID];

    68 "TDH.EXPORT.MEM" v[0] Migration "exports pages, or cancels their export"
        in["RCX" "GPA_LIST_INFO" "GPA_LIST_INFO", "RDX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R9" "MIG_BUFF_LIST_HPA" "PAGE_LIST_ENTRY", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND", "R11" "MAC_LIST_0_HPA" "", "R12" "MAC_LIST_1_HPA" ""]
        out["RCX" "GPA_LIST_INFO" "GPA_LIST_INFO", "RDX" "NUM_PROCESSED" ""]
        ops(Some(&[OpState::LiveExport, OpState::PausedExport, OpState::PostExport])) septs(Some(&[SeptState::Mapped, SeptState::Blockedw, SeptState::ExportedBlockedw, SeptState::ExportedDirty, SeptState::ExportedDirtyBlockedw, SeptState::Pending, SeptState::PendingBlockedw, SeptState::PendingExportedBlockedw, SeptState::PendingExportedDirty, SeptState::PendingExportedDirtyBlockedw])) Resumable
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "migration lock (TDCS)" Shared, "migration stream link" Mutex, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[INCORRECT_MBMD_MAC, INTERRUPTED_RESUMABLE, INVALID_MBMD, INVALID_RESUMPTION, MIGRATION_STREAM_STATE_INCORRECT, OPERAND_BUSY, OPERAND_INVALID];

    70 "TDH.EXPORT.PAUSE" v[0] Migration "stops the TD for the last part of an export"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(Some(&[OpState::LiveExport])) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied]
        false
        statuses[OPERAND_INVALID];

    71 "TDH.EXPORT.TRACK" v[0] Migration "begins a migration epoch and writes its token"
        in["RCX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND"]
        out[]
        ops(Some(&[OpState::LiveExport, OpState::PausedExport])) septs(None) Never
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Exclusive, "migration lock (TDCS)" Exclusive, "migration stream link" Mutex]
        false
        statuses[EXPORTED_DIRTY_PAGES_REMAIN, MIGRATION_EPOCH_OVERFLOW, MIGRATION_STREAM_STATE_INCORRECT, OPERAND_BUSY, OPERAND_INVALID, OP_STATE_INCORRECT];

    72 "TDH.EXPORT.STATE.IMMUTABLE" v[0] Migration "begins an export with what never changes"
        in["RCX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R9" "PAGE_LIST_INFO" "PAGE_LIST_INFO", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND"]
        out["RDX" "NUM_PAGES" ""]
        ops(Some(&[OpState::Runnable, OpState::LiveImport])) septs(None) Resumable
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Exclusive, "migration lock (TDCS)" Exclusive, "migration stream link" Mutex]
        false
        statuses[INTERRUPTED_RESUMABLE, INVALID_MBMD, INVALID_RESUMPTION, METADATA_LIST_OVERFLOW, MIGRATION_DECRYPTION_KEY_NOT_SET, MIGRATION_STREAM_STATE_INCORRECT, MIN_MIGS_NOT_CREATED, NUM_MIGS_HIGHER_THAN_CREATED, OPERAND_BUSY, OPERAND_INVALID, PREVIOUS_EXPORT_CLEANUP_INCOMPLETE, RND_NO_ENTROPY, TD_NOT_MIGRATABLE];

    73 "TDH.EXPORT.STATE.TD" v[0] Migration "exports the TD's changing state"
        in["RCX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R9" "PAGE_LIST_INFO" "PAGE_LIST_INFO", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND"]
        out["RDX" "NUM_PAGES" ""]
        ops(Some(&[OpState::PausedExport])) septs(None) Resumable
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Exclusive, "migration stream link" Mutex]
        false
        statuses[INTERRUPTED_RESUMABLE, INVALID_RESUMPTION, METADATA_LIST_OVERFLOW, MIGRATION_STREAM_STATE_INCORRECT, OPERAND_BUSY, OPERAND_INVALID];

    74 "TDH.EXPORT.STATE.VP" v[0] Migration "exports a vCPU's state"
        in["RCX" "TDVPR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R9" "PAGE_LIST_INFO" "PAGE_LIST_INFO", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND"]
        out["RDX" "NUM_PAGES" ""]
        ops(Some(&[OpState::PausedExport])) septs(None) Resumable
        locks["page (RCX)" Exclusive, "TDR (found through PAMT owner)" Shared, "OP_STATE (TDCS, host priority)" Shared, "migration stream link" Mutex]
        true
        statuses[INTERRUPTED_RESUMABLE, INVALID_RESUMPTION, METADATA_LIST_OVERFLOW, MIGRATION_STREAM_STATE_INCORRECT, OPERAND_BUSY, OPERAND_INVALID, TDCX_NUM_INCORRECT, VCPU_ALREADY_EXPORTED];

    75 "TDH.EXPORT.UNBLOCKW" v[0] Migration "lets a page be written again"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO"]
        ops(Some(&[OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport])) septs(Some(&[SeptState::Blockedw, SeptState::ExportedBlockedw, SeptState::ExportedDirtyBlockedw, SeptState::PendingBlockedw, SeptState::PendingExportedBlockedw, SeptState::PendingExportedDirtyBlockedw])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, OPERAND_INVALID];

    80 "TDH.IMPORT.ABORT" v[0] Migration "gives an import up and writes the token that says so"
        in["RCX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R10" "MIGS_INDEX" "MIGS_INDEX_AND_COMMAND"]
        out[]
        ops(Some(&[OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::FailedImport])) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied, "migration stream link" Mutex]
        false
        statuses[OPERAND_BUSY, OPERAND_INVALID];

    81 "TDH.IMPORT.END" v[0] Migration "completes an import"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(Some(&[OpState::PostImport, OpState::LiveImport])) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied]
        false
        statuses[OPERAND_INVALID];

    82 "TDH.IMPORT.COMMIT" v[0] Migration "lets an imported TD run while memory still arrives"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(Some(&[OpState::PostImport])) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied]
        false
        statuses[OPERAND_INVALID];

    83 "TDH.IMPORT.MEM" v[0] Migration "imports pages, or cancels their import"
        in["RCX" "GPA_LIST_INFO" "GPA_LIST_INFO", "RDX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R9" "MIG_BUFF_LIST_HPA" "PAGE_LIST_ENTRY", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND", "R11" "MAC_LIST_0_HPA" "", "R12" "MAC_LIST_1_HPA" "", "R13" "NEW_PAGE_LIST_HPA" "PAGE_LIST_ENTRY"]
        out["RCX" "GPA_LIST_INFO" "GPA_LIST_INFO"]
        ops(Some(&[OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport])) septs(Some(&[SeptState::Free, SeptState::Removed, SeptState::Mapped, SeptState::Pending])) Resumable
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "migration lock (TDCS)" Shared, "migration stream link" Mutex, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive, "page (NEW_PAGE_LIST_ENTRY)" Exclusive, "PAMT entry of the affected page" Exclusive]
        false
        statuses[DISALLOWED_IMPORT_OVER_REMOVED, EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, IMPORT_MISMATCH, INCORRECT_MBMD_MAC, INTERRUPTED_RESUMABLE, INVALID_MBMD, INVALID_PAGE_MAC, INVALID_RESUMPTION, MIGRATED_IN_CURRENT_EPOCH, MIGRATION_STREAM_STATE_INCORRECT, OPERAND_BUSY, OPERAND_INVALID, OP_STATE_INCORRECT];

    84 "TDH.IMPORT.TRACK" v[0] Migration "takes an epoch token"
        in["RCX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND"]
        out[]
        ops(Some(&[OpState::MemoryImport, OpState::StateImport])) septs(None) Never
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied, "migration stream link" Mutex]
        false
        statuses[INCORRECT_MBMD_MAC, INVALID_MBMD, MIGRATION_STREAM_STATE_INCORRECT, OPERAND_BUSY, OPERAND_INVALID, SOME_VCPUS_NOT_MIGRATED];

    85 "TDH.IMPORT.STATE.IMMUTABLE" v[0] Migration "begins an import with what never changes"
        in["RCX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R9" "PAGE_LIST_INFO" "PAGE_LIST_INFO", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND"]
        out["RCX" "EXTENDED_ERROR_0" "", "RDX" "EXTENDED_ERROR_1" ""]
        ops(Some(&[OpState::Uninitialized])) septs(None) Resumable
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied, "migration stream link" Mutex]
        false
        statuses[INCORRECT_MBMD_MAC, INTERRUPTED_RESUMABLE, INVALID_MBMD, INVALID_RESUMPTION, LIMIT_CPUID_MAXVAL_SET, MIGRATION_DECRYPTION_KEY_NOT_SET, MIGRATION_STREAM_STATE_INCORRECT, MIN_MIGS_NOT_CREATED, NUM_MIGS_HIGHER_THAN_CREATED, OPERAND_BUSY, OPERAND_INVALID, RND_NO_ENTROPY];

    86 "TDH.IMPORT.STATE.TD" v[0] Migration "imports the TD's changing state"
        in["RCX" "TDR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R9" "PAGE_LIST_INFO" "PAGE_LIST_INFO", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND"]
        out["RCX" "EXTENDED_ERROR_0" "", "RDX" "EXTENDED_ERROR_1" ""]
        ops(Some(&[OpState::MemoryImport])) septs(None) Resumable
        locks["TDR page (RCX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied, "migration stream link" Mutex]
        false
        statuses[INCORRECT_MBMD_MAC, INTERRUPTED_RESUMABLE, INVALID_MBMD, INVALID_RESUMPTION, MIGRATION_STREAM_STATE_INCORRECT, OPERAND_BUSY, OPERAND_INVALID];

    87 "TDH.IMPORT.STATE.VP" v[0] Migration "imports a vCPU's state"
        in["RCX" "TDVPR_HPA" "", "R8" "MBMD_HPA_AND_SIZE" "HPA_AND_SIZE", "R9" "PAGE_LIST_INFO" "PAGE_LIST_INFO", "R10" "MIGS_INDEX_AND_CMD" "MIGS_INDEX_AND_COMMAND"]
        out["RCX" "EXTENDED_ERROR_0" "", "RDX" "EXTENDED_ERROR_1" ""]
        ops(Some(&[OpState::StateImport])) septs(None) Resumable
        locks["page (RCX)" Exclusive, "TDR (found through PAMT owner)" Shared, "OP_STATE (TDCS, host priority)" Shared, "migration stream link" Mutex]
        true
        statuses[ALL_VCPUS_IMPORTED, INCORRECT_MBMD_MAC, INTERRUPTED_RESUMABLE, INVALID_MBMD, INVALID_RESUMPTION, OPERAND_BUSY, OPERAND_INVALID, TDCX_NUM_INCORRECT, VCPU_STATE_INCORRECT];

    96 "TDH.MIG.STREAM.CREATE" v[0] Migration "makes a migration stream"
        in["RCX" "MIGSC_HPA" "", "RDX" "TDR_HPA" ""]
        out[]
        ops(Some(&[OpState::Uninitialized, OpState::Initialized, OpState::Runnable])) septs(None) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Exclusive, "migration lock (TDCS)" Exclusive, "page (RCX)" Exclusive]
        false
        statuses[MAX_MIGS_NUM_EXCEEDED, OPERAND_BUSY];
}
