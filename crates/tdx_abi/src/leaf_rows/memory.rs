//! Leaves of private memory and the Secure EPT: TDH.MEM.*.

use super::{Interruption, LeafCategory, LeafLock, LeafOperand, LeafRow, LockMode, rows};
use crate::{OpState, SeptState, Status};

rows! {
    2 "TDH.MEM.PAGE.ADD" v[0] PrivateMemory "fills a private page and measures its address, before MR.FINALIZE"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" "", "R8" "TARGET_PAGE_HPA" "", "R9" "SOURCE_PAGE_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO"]
        ops(Some(&[OpState::Initialized])) septs(Some(&[SeptState::Free])) Never
        locks["TDR page (RDX)" Exclusive, "OP_STATE (TDCS, host priority)" Implied, "page (R8)" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, OPERAND_INVALID];

    3 "TDH.MEM.SEPT.ADD" v[0, 1] SecureEpt "adds a page to the Secure EPT"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA_AND_FLAGS" "TDR_HPA_AND_FLAGS", "R8" "SEPT_PAGE_HPA" "", "R9" "L2_SEPT_PAGE_1_HPA" "", "R10" "L2_SEPT_PAGE_2_HPA" "", "R11" "L2_SEPT_PAGE_3_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO", "R8-R11" "PAGE_HPAS" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport])) septs(Some(&[SeptState::Free, SeptState::NlMapped])) Resumable
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive, "page (R8)" Exclusive, "page (R8 + vm_id)" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, INTERRUPTED_RESUMABLE, L2_SEPT_ENTRY_NOT_FREE, L2_SEPT_WALK_FAILED, OPERAND_INVALID];

    5 "TDH.MEM.PAGE.RELOCATE" v[0] PrivateMemory "moves a private page to another host page"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" "", "R8" "TARGET_PAGE_HPA" ""]
        out["RCX" "OLD_PAGE_HPA" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO"]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::PostImport, OpState::LiveImport])) septs(Some(&[SeptState::Mapped, SeptState::Blocked, SeptState::Blockedw, SeptState::ExportedBlockedw, SeptState::ExportedDirty, SeptState::ExportedDirtyBlockedw, SeptState::Pending, SeptState::PendingBlocked, SeptState::PendingBlockedw, SeptState::PendingExportedBlockedw, SeptState::PendingExportedDirty, SeptState::PendingExportedDirtyBlockedw])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive, "PAMT entry of the affected page" Exclusive, "page (R8)" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, GPA_RANGE_NOT_BLOCKED, OPERAND_INVALID, TLB_TRACKING_NOT_DONE];

    6 "TDH.MEM.PAGE.AUG" v[0] PrivateMemory "maps a page that the guest has to accept"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" "", "R8" "TARGET_PAGE_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO"]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::LiveImport])) septs(Some(&[SeptState::Free, SeptState::Removed])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive, "page (R8)" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, OPERAND_INVALID];

    7 "TDH.MEM.RANGE.BLOCK" v[0] PrivateMemory "stops new translations of a range"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO"]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::PostImport, OpState::LiveImport])) septs(Some(&[SeptState::NlMapped, SeptState::Mapped, SeptState::Blockedw, SeptState::Pending, SeptState::PendingBlockedw])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Exclusive, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, GPA_RANGE_ALREADY_BLOCKED, OPERAND_INVALID];

    12 "TDH.MEM.RD" v[0] PrivateMemory "reads 8 bytes of a DEBUG TD's memory"
        in["RCX" "GPA" "", "RDX" "TDR_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO", "R8" "DATA" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(Some(&[SeptState::Mapped, SeptState::Blockedw, SeptState::ExportedBlockedw, SeptState::ExportedDirty, SeptState::ExportedDirtyBlockedw])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[EPT_ENTRY_NOT_PRESENT, EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, OPERAND_BUSY, OPERAND_INVALID, TD_NON_DEBUG];

    14 "TDH.MEM.WR" v[0] PrivateMemory "writes 8 bytes of a DEBUG TD's memory"
        in["RCX" "GPA" "", "RDX" "TDR_HPA" "", "R8" "DATA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO", "R8" "OLD_DATA" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(Some(&[SeptState::Mapped, SeptState::ExportedDirty])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[EPT_ENTRY_NOT_PRESENT, EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, OPERAND_BUSY, OPERAND_INVALID, TD_NON_DEBUG];

    15 "TDH.MEM.PAGE.DEMOTE" v[0] PrivateMemory "splits a mapping into 512 of the next lower level"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA_AND_FLAGS" "TDR_HPA_AND_FLAGS", "R8" "SEPT_PAGE_HPA" "", "R9-R11" "L2_SEPT_PAGE_HPAS" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO", "R9-R11" "L2_SEPT_PAGE_HPAS" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::PostImport, OpState::LiveImport])) septs(Some(&[SeptState::Mapped, SeptState::Blocked, SeptState::Pending, SeptState::PendingBlocked])) Restartable
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive, "page (R8)" Exclusive, "page (R8 + vm_id)" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, GPA_RANGE_NOT_BLOCKED, INTERRUPTED_RESTARTABLE, L2_SEPT_PAGE_NOT_PROVIDED, L2_SEPT_WALK_FAILED, OPERAND_INVALID, TLB_TRACKING_NOT_DONE];

    23 "TDH.MEM.PAGE.PROMOTE" v[0, 1] PrivateMemory "merges 512 mappings into one of the next level"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" ""]
        out["RCX" "SEPT_PAGE_HPA" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO", "R9-R11" "L2_SEPT_PAGE_HPAS" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::PostImport, OpState::LiveImport])) septs(Some(&[SeptState::NlMapped, SeptState::NlBlocked])) Restartable
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive, "PAMT entry of the affected page" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_INVALID_PROMOTE_CONDITIONS, EPT_WALK_FAILED, GPA_RANGE_NOT_BLOCKED, INTERRUPTED_RESTARTABLE, OPERAND_INVALID, TLB_TRACKING_NOT_DONE];

    25 "TDH.MEM.SEPT.RD" v[0] SecureEpt "reads a Secure EPT entry"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO", "R8" "GPA_ATTR" "GPA_ATTR"]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(Some(SeptState::ALL)) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[EPT_WALK_FAILED, OPERAND_INVALID];

    29 "TDH.MEM.PAGE.REMOVE" v[0] PrivateMemory "takes a private page from a TD"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" ""]
        out["RCX" "PAGE_HPA" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO"]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(Some(&[SeptState::Mapped, SeptState::Blocked, SeptState::Blockedw, SeptState::Pending, SeptState::PendingBlocked, SeptState::PendingBlockedw])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Shared, "Secure EPT entry, host side (host priority)" Exclusive, "PAMT entry of the affected page" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, GPA_RANGE_NOT_BLOCKED, OPERAND_INVALID, TLB_TRACKING_NOT_DONE];

    30 "TDH.MEM.SEPT.REMOVE" v[0, 1] SecureEpt "takes an empty Secure EPT page from a TD"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" ""]
        out["RCX" "SEPT_PAGE_HPA" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO", "R9-R11" "L2_SEPT_PAGE_HPAS" ""]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport, OpState::FailedImport])) septs(Some(&[SeptState::NlMapped, SeptState::NlBlocked])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Exclusive, "Secure EPT entry, host side (host priority)" Exclusive, "PAMT entry of the affected page" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_PAGE_NOT_FREE, EPT_WALK_FAILED, GPA_RANGE_NOT_BLOCKED, OPERAND_INVALID, TLB_TRACKING_NOT_DONE];

    38 "TDH.MEM.TRACK" v[0] PrivateMemory "begins a TLB tracking epoch"
        in["RCX" "TDR_HPA" ""]
        out[]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::MemoryImport, OpState::StateImport, OpState::PostImport, OpState::LiveImport])) septs(None) Never
        locks["TDR page (RCX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "TD epoch (TDCS)" Exclusive]
        false
        statuses[OPERAND_BUSY, PREVIOUS_TLB_EPOCH_BUSY];

    39 "TDH.MEM.RANGE.UNBLOCK" v[0] PrivateMemory "takes a block back"
        in["RCX" "GPA_MAPPING" "GPA_MAPPING", "RDX" "TDR_HPA" ""]
        out["RCX" "SEPT_ENTRY" "", "RDX" "SEPT_ENTRY_INFO" "SEPT_ENTRY_ARCH_INFO"]
        ops(Some(&[OpState::Initialized, OpState::Runnable, OpState::LiveExport, OpState::PausedExport, OpState::PostExport, OpState::PostImport, OpState::LiveImport])) septs(Some(&[SeptState::NlBlocked, SeptState::Blocked, SeptState::PendingBlocked])) Never
        locks["TDR page (RDX)" Shared, "OP_STATE (TDCS, host priority)" Shared, "Secure EPT tree (TDCS)" Exclusive, "Secure EPT entry, host side (host priority)" Exclusive]
        false
        statuses[EPT_ENTRY_STATE_INCORRECT, EPT_WALK_FAILED, OPERAND_INVALID, TLB_TRACKING_NOT_DONE];

    42 "TDH.MEM.SEPT.WR" v[0] SecureEpt ""
        in[]
        out[]
        ops(None) septs(None) Never
        locks[]
        false
        statuses[];
}
