//! What each completion status means, what its low half carries, and what a caller should do about it.
//! The meanings and the advice are ours; names and numbers are in [`crate::Status`].

use crate::Status;

/// What the flag bits of a status say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusKind {
    Success,
    /// Done, with something to tell.
    Informational,
    /// An error that may go away by itself.
    RecoverableError,
    /// An error that calling again does not cure.
    Error,
    /// A TD exit after which the vCPU, or the TD, cannot be entered.
    NonRecoverableExit,
}

impl StatusKind {
    /// A word for people.
    pub const fn name(self) -> &'static str {
        match self {
            StatusKind::Success => "success",
            StatusKind::Informational => "informational",
            StatusKind::RecoverableError => "recoverable error",
            StatusKind::Error => "error, not recoverable",
            StatusKind::NonRecoverableExit => "TD exit, not recoverable",
        }
    }
}

/// What bits 31:0 carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DetailsKind {
    /// Nothing, or nothing that has a form.
    Plain,
    /// An [`crate::OperandId`].
    Operand,
    /// An MSR address.
    Msr,
    /// A CPUID leaf.
    CpuidLeaf,
    /// A VMX exit reason.
    ExitReason,
    /// Byte 0: index of the TDMR; byte 1: PAMT level or reserved area; byte 2: index of the other TDMR.
    Tdmr,
    /// Byte 0: SMRR index; byte 1: CMR index.
    Smrr,
    /// A Secure EPT level.
    SeptLevel,
    /// Bits 31:16 VM, 15:0 Secure EPT level.
    VmAndLevel,
    /// An index: package, slot, ...
    Index,
}

/// What a VMM (or, for TDCALLs, a guest) should do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    Nothing,
    Note,
    HandleExit,
    Retry,
    RetryEntropy,
    Resume,
    Restart,
    Track,
    FixOperand,
    FixOrder,
    Platform,
    LeaveVcpu,
    TearDown,
    EndMigration,
    OldStatus,
}

impl Advice {
    /// One sentence for people.
    pub const fn text(self) -> &'static str {
        match self {
            Advice::Nothing => "Nothing to do.",
            Advice::Note => "No error: take note and go on.",
            Advice::HandleExit => "Handle the exit and enter the vCPU again.",
            Advice::Retry => {
                "Call again: another processor holds the object. Give up after a bounded number of tries, not silently."
            }
            Advice::RetryEntropy => {
                "Call again, some ten times: the random-number source was empty for a moment."
            }
            Advice::Resume => {
                "Serve the interrupt, then call again with the operands that came back (or the resume command)."
            }
            Advice::Restart => {
                "Serve the interrupt, then call again with the same operands; nothing has changed."
            }
            Advice::Track => {
                "TDH.MEM.RANGE.BLOCK must have succeeded; then TDH.MEM.TRACK, make every vCPU of the TD exit once, and call again."
            }
            Advice::FixOperand => {
                "A mistake of the caller: correct the operand. Calling again with the same one does not help."
            }
            Advice::FixOrder => {
                "A mistake of the caller: an earlier step is missing, or this one is done already."
            }
            Advice::Platform => {
                "The platform is not configured as the module needs it (firmware, CPU model, MSRs): nothing a VMM can cure at run time."
            }
            Advice::LeaveVcpu => "Do not enter this vCPU again; the TD's other vCPUs may run.",
            Advice::TearDown => "Stop all vCPUs and tear the TD down; it can never run again.",
            Advice::EndMigration => {
                "Abort the migration session; the source may run on from TDH.EXPORT.ABORT."
            }
            Advice::OldStatus => "Module 1.5.01 never returns it; look at the module's version.",
        }
    }
}

/// One status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRow {
    pub status: Status,
    pub details: DetailsKind,
    pub meaning: &'static str,
    pub advice: Advice,
}

impl Status {
    /// What the flag bits say. NON_RECOVERABLE and FATAL without ERROR are TD exits.
    pub const fn kind(self) -> StatusKind {
        match (self.is_error(), self.0 & Status::NON_RECOVERABLE != 0) {
            (true, true) => StatusKind::Error,
            (true, false) => StatusKind::RecoverableError,
            (false, true) => StatusKind::NonRecoverableExit,
            (false, false) if self.code().0 == 0 => StatusKind::Success,
            (false, false) => StatusKind::Informational,
        }
    }
    /// Bits 47:40.
    pub const fn class(self) -> u8 {
        (self.0 >> 40) as u8
    }
    /// Bits 39:32: the status within its class.
    pub const fn details_l1(self) -> u8 {
        (self.0 >> 32) as u8
    }
    /// What the class is about.
    pub const fn class_name(self) -> Option<&'static str> {
        Some(match self.class() {
            0x00 => "GENERAL",
            0x01 => "INVALID_OPERAND",
            0x02 => "RESOURCE_BUSY",
            0x03 => "PAGE_METADATA",
            0x04 => "DEPENDENT_RESOURCES",
            0x05 => "MODULE_STATE",
            0x06 => "TD_STATE",
            0x07 => "VCPU_STATE",
            0x08 => "KEY_MANAGEMENT",
            0x09 => "PLATFORM_CONFIGURATION",
            0x0A => "PHYSICAL_MEMORY_CONFIGURATION",
            0x0B => "SECURE_EPT_AND_GPA",
            0x0C => "METADATA",
            0x0D => "SERVICE_TD",
            0x0E => "MIGRATION",
            0x10 => "ATTESTATION",
            0x11 => "TD_PARTITIONING",
            _ => return None,
        })
    }
    /// The status's row. Bit 61 (FATAL), which the module adds to some, and bit 60 do not matter.
    pub fn row(self) -> Option<&'static StatusRow> {
        let exact = STATUSES.iter().find(|row| row.status == self.code());
        let flags = Status::FATAL | 1 << 60;
        exact.or_else(|| {
            STATUSES
                .iter()
                .find(|row| row.status.0 & !flags == self.code().0 & !flags)
        })
    }
}

macro_rules! rows {
    ($($status:ident $details:ident $advice:ident $meaning:literal;)*) => {
        /// Every status of the 1.5.01 module, in the order of [`Status::ALL`].
        pub const STATUSES: &[StatusRow] = &[$(StatusRow {
            status: Status::$status,
            details: DetailsKind::$details,
            meaning: $meaning,
            advice: Advice::$advice,
        },)*];
    };
}

rows! {
    SUCCESS ExitReason Nothing "The leaf did what was asked. From TDH.VP.ENTER: the TD exited for the reason in bits 31:0.";
    NON_RECOVERABLE_VCPU ExitReason LeaveVcpu "The vCPU triple-faulted and is disabled.";
    NON_RECOVERABLE_TD ExitReason TearDown "Something happened in the TD that the module does not let it survive.";
    INTERRUPTED_RESUMABLE Plain Resume "An interrupt was pending; part of the work is done.";
    INTERRUPTED_RESTARTABLE Plain Restart "An interrupt was pending; none of the work is done.";
    NON_RECOVERABLE_TD_NON_ACCESSIBLE ExitReason TearDown "A machine check hit the TD, or another processor found it so: its memory is not touched any more.";
    INVALID_RESUMPTION Plain FixOperand "The call resumes another one than was interrupted, or none was.";
    NON_RECOVERABLE_TD_WRONG_APIC_MODE ExitReason TearDown "The defence against single-stepping does not work in the APIC mode that was found.";
    CROSS_TD_FAULT Plain HandleExit "The exit came from another TD's state; the guest repeats its TDCALL when entered.";
    CROSS_TD_TRAP Plain HandleExit "A service TD's access failed on its target TD: RDX has the status, R8 the target's TDR.";
    NON_RECOVERABLE_TD_CORRUPTED_MD Plain TearDown "The TD's control structures are damaged (their memory was written by others).";
    OPERAND_INVALID Operand FixOperand "The operand's value is not allowed.";
    OPERAND_ADDR_RANGE_ERROR Operand FixOperand "The address lies outside what is allowed: in no TDMR, or in a reserved area.";
    OPERAND_BUSY Operand Retry "A lock on the object is held by another processor.";
    PREVIOUS_TLB_EPOCH_BUSY Plain Retry "A vCPU still runs in the epoch before the last one; it has to exit first.";
    SYS_BUSY Plain Retry "The module's global lock is held by another processor.";
    RND_NO_ENTROPY Plain RetryEntropy "RDRAND or RDSEED gave no number.";
    OPERAND_BUSY_HOST_PRIORITY Operand Retry "The VMM holds, or waits for, a lock that the guest wants; the host goes first.";
    HOST_PRIORITY_BUSY_TIMEOUT Operand HandleExit "A guest's TDCALL lost against the VMM's locks for longer than HP_LOCK_TIMEOUT.";
    PAGE_METADATA_INCORRECT Operand FixOperand "The page is not of the type this leaf needs (see TDH.PHYMEM.PAGE.RDMD).";
    PAGE_ALREADY_FREE Plain OldStatus "The page is free already.";
    PAGE_NOT_OWNED_BY_TD Plain OldStatus "The page belongs to another TD.";
    PAGE_NOT_FREE Plain OldStatus "The page is in use.";
    TD_ASSOCIATED_PAGES_EXIST Plain FixOrder "Pages of the TD are not reclaimed yet; its TDR comes last.";
    SYS_INIT_NOT_PENDING Plain FixOrder "The module is initialized already.";
    SYS_LP_INIT_NOT_DONE Plain FixOrder "Some logical processor has not run TDH.SYS.LP.INIT.";
    SYS_LP_INIT_DONE Plain FixOrder "This logical processor has run TDH.SYS.LP.INIT already.";
    SYS_NOT_READY Plain FixOrder "The module is not ready: its initialization is not complete.";
    SYS_SHUTDOWN Plain FixOrder "The module has been shut down.";
    SYS_KEY_CONFIG_NOT_PENDING Plain FixOrder "The module does not wait for its key on this package: not configured yet, or done.";
    SYS_STATE_INCORRECT Plain FixOrder "The module's state does not allow this leaf.";
    SYS_INVALID_HANDOFF Plain FixOrder "No valid state of an earlier module is there to take over.";
    SYS_INCOMPATIBLE_SIGSTRUCT Plain Platform "The module's signature structure does not fit the CPU it is to run on.";
    SYS_LP_INIT_NOT_PENDING Plain FixOrder "TDH.SYS.INIT comes before TDH.SYS.LP.INIT.";
    SYS_CONFIG_NOT_PENDING Plain FixOrder "The module does not wait for TDH.SYS.CONFIG: not initialized yet, or configured.";
    INCOMPATIBLE_SEAM_CAPABILITIES Plain Platform "The CPU's SEAM capabilities are not what the module needs.";
    TD_FATAL Plain TearDown "The TD has suffered a fatal error before.";
    TD_NON_DEBUG Plain FixOperand "Only a DEBUG TD lets the VMM do this.";
    TDCS_NOT_ALLOCATED Plain FixOrder "The TD has not got all pages of its TDCS (TDH.MNG.ADDCX).";
    LIFECYCLE_STATE_INCORRECT Plain FixOrder "The TD's life-cycle state does not allow this leaf.";
    OP_STATE_INCORRECT Plain FixOrder "The TD's operation state does not allow this leaf.";
    NO_VCPUS Plain FixOrder "The TD has no vCPU.";
    TDCX_NUM_INCORRECT Plain FixOrder "Too many or too few control-structure pages have been added.";
    X2APIC_ID_NOT_UNIQUE Plain FixOperand "Another vCPU of the TD has this x2APIC id (releases after 1.5.01).";
    VCPU_STATE_INCORRECT Plain FixOrder "The vCPU's state does not allow this leaf: not initialized, in use, or disabled.";
    VCPU_ASSOCIATED Plain FixOrder "The vCPU is bound to another logical processor: TDH.VP.FLUSH there first.";
    VCPU_NOT_ASSOCIATED Plain Note "The vCPU is not bound to this logical processor.";
    NO_VALID_VE_INFO Plain FixOrder "There is no #VE to tell about.";
    MAX_VCPUS_EXCEEDED Plain FixOrder "The TD has MAX_VCPUS vCPUs already.";
    TSC_ROLLBACK Plain TearDown "The time-stamp counter is lower than at the last exit: the TD would see time go back.";
    TD_VMCS_FIELD_NOT_INITIALIZED Plain FixOrder "A field that the VMM has to write first is not written (bits 31:0: its VMCS encoding).";
    TD_VMCS_FIELD_ERROR Plain OldStatus "A VMCS field could not be accessed.";
    KEY_GENERATION_FAILED Plain RetryEntropy "The processor could not generate a key.";
    TD_KEYS_NOT_CONFIGURED Plain FixOrder "The TD's key is not programmed on every package (TDH.MNG.KEY.CONFIG), or is freed already.";
    KEY_STATE_INCORRECT Plain FixOrder "The HKID's state does not allow this leaf.";
    KEY_CONFIGURED Plain Note "The key is programmed on this package already.";
    WBCACHE_NOT_COMPLETE Plain FixOrder "Some package has not completed TDH.PHYMEM.CACHE.WB since the vCPUs were flushed.";
    HKID_NOT_FREE Plain FixOperand "The HKID belongs to another TD or is not written back yet.";
    NO_HKID_READY_TO_WBCACHE Plain Note "No HKID on this package waits for a write-back.";
    WBCACHE_RESUME_ERROR Plain FixOperand "No interrupted write-back is there to resume.";
    FLUSHVP_NOT_DONE Plain FixOrder "A vCPU of the TD is still bound to a logical processor: TDH.VP.FLUSH each.";
    NUM_ACTIVATED_HKIDS_NOT_SUPPORTED Plain Platform "The platform activates more HKIDs than the module can manage.";
    INCORRECT_CPUID_VALUE Plain Platform "CPUID reports something the module cannot work with.";
    LIMIT_CPUID_MAXVAL_SET Plain Platform "IA32_MISC_ENABLE limits CPUID to leaf 2.";
    INCONSISTENT_CPUID_FIELD Plain Platform "CPUID differs between logical processors.";
    CPUID_MAX_SUBLEAVES_UNRECOGNIZED Plain Platform "A CPUID leaf has more sub-leaves than the module knows.";
    CPUID_LEAF_1F_FORMAT_UNRECOGNIZED Plain Platform "CPUID leaf 1FH describes a topology the module does not know.";
    INVALID_WBINVD_SCOPE Plain Platform "WBINVD does not reach what the module expects it to.";
    INVALID_PKG_ID Index Platform "A package number that the module cannot manage.";
    ENABLE_MONITOR_FSM_NOT_SET Plain Platform "MONITOR is not enabled in IA32_MISC_ENABLE.";
    CPUID_LEAF_NOT_SUPPORTED CpuidLeaf Platform "A CPUID leaf that the module needs is not there.";
    SMRR_NOT_LOCKED Smrr Platform "A system-management range is not locked.";
    INVALID_SMRR_CONFIGURATION Smrr Platform "A system-management range has a value that is not allowed.";
    SMRR_OVERLAPS_CMR Smrr Platform "A system-management range overlaps memory that TDX may use.";
    SMRR_LOCK_NOT_SUPPORTED Plain Platform "The CPU cannot lock its system-management ranges.";
    SMRR_NOT_SUPPORTED Plain Platform "The CPU has no system-management ranges.";
    INCONSISTENT_MSR Msr Platform "An MSR differs between logical processors.";
    INCORRECT_MSR_VALUE Msr Platform "An MSR has a value that the module cannot work with.";
    SEAMREPORT_NOT_AVAILABLE Plain Platform "The CPU does not offer the SEAMREPORT instruction now.";
    SEAMDB_GETREF_NOT_AVAILABLE Plain Platform "The CPU does not offer SEAMDB_GETREF now.";
    SEAMDB_REPORT_NOT_AVAILABLE Plain Platform "The CPU does not offer SEAMDB_REPORT now.";
    SEAMVERIFYREPORT_NOT_AVAILABLE Plain Platform "The CPU does not offer SEAMVERIFYREPORT now.";
    INVALID_TDMR Tdmr FixOperand "A TDMR's base or size is not allowed (1 GiB granules, inside physical memory).";
    NON_ORDERED_TDMR Tdmr FixOperand "TDMRs are not in ascending order, or overlap.";
    TDMR_OUTSIDE_CMRS Tdmr FixOperand "Memory of a TDMR that is not reserved lies outside every CMR.";
    TDMR_ALREADY_INITIALIZED Plain Note "All of the TDMR's PAMT is initialized.";
    INVALID_PAMT Tdmr FixOperand "A PAMT's base or size is not allowed.";
    PAMT_OUTSIDE_CMRS Tdmr FixOperand "A PAMT does not lie inside one CMR.";
    PAMT_OVERLAP Tdmr FixOperand "A PAMT overlaps another, or memory of a TDMR that is not reserved.";
    INVALID_RESERVED_IN_TDMR Tdmr FixOperand "A reserved area is not made of whole pages inside its TDMR.";
    NON_ORDERED_RESERVED_IN_TDMR Tdmr FixOperand "Reserved areas are not in ascending order, or overlap.";
    CMR_LIST_INVALID Plain Platform "The CMRs that the firmware set up are not valid.";
    EPT_WALK_FAILED Operand FixOrder "The walk ended above the level asked for: RCX has the entry, RDX its level and state.";
    EPT_ENTRY_FREE Operand OldStatus "The Secure EPT entry maps nothing.";
    EPT_ENTRY_NOT_FREE Operand OldStatus "The Secure EPT entry is in use.";
    EPT_ENTRY_NOT_PRESENT Operand FixOrder "The page is not mapped for this use.";
    EPT_ENTRY_NOT_LEAF Operand OldStatus "The Secure EPT entry maps no page but a table.";
    EPT_ENTRY_LEAF Operand OldStatus "The Secure EPT entry maps a page, not a table.";
    GPA_RANGE_NOT_BLOCKED Operand Track "The range has to be blocked before this.";
    GPA_RANGE_ALREADY_BLOCKED Operand Note "The range is blocked already.";
    TLB_TRACKING_NOT_DONE Operand Track "Some processor may still hold a translation from before the range was blocked.";
    EPT_INVALID_PROMOTE_CONDITIONS Operand FixOrder "The 512 entries are not all in one state, or their pages are not contiguous.";
    PAGE_ALREADY_ACCEPTED SeptLevel Note "The guest has accepted the page before. A guest should ask itself why it accepts twice.";
    PAGE_SIZE_MISMATCH SeptLevel FixOperand "The page is mapped at another level: accept it in smaller pieces.";
    GPA_RANGE_BLOCKED Operand OldStatus "The range is blocked.";
    EPT_ENTRY_STATE_INCORRECT Operand FixOrder "The entry's state does not allow this leaf: RCX has the entry, RDX its level and state.";
    EPT_PAGE_NOT_FREE Operand FixOrder "The Secure EPT page still has entries in use.";
    L2_SEPT_WALK_FAILED VmAndLevel FixOrder "The L2 Secure EPT lacks a table on the way to the page.";
    L2_SEPT_ENTRY_NOT_FREE VmAndLevel FixOrder "The L2 Secure EPT entry is in use.";
    PAGE_ATTR_INVALID Plain FixOperand "The page attributes asked for are not allowed.";
    L2_SEPT_PAGE_NOT_PROVIDED Operand FixOperand "A page for an L2 Secure EPT is needed and none was given.";
    METADATA_FIELD_ID_INCORRECT Plain FixOperand "There is no such metadata field.";
    METADATA_FIELD_NOT_WRITABLE Plain FixOperand "The caller may not write any of the bits it selects.";
    METADATA_FIELD_NOT_READABLE Plain FixOperand "The caller may not read this field.";
    METADATA_FIELD_VALUE_NOT_VALID Plain FixOperand "The value is not allowed, or would change bits the caller may not write.";
    METADATA_LIST_OVERFLOW Plain FixOperand "The metadata list is longer than its buffer.";
    INVALID_METADATA_LIST_HEADER Plain FixOperand "The metadata list's header is wrong.";
    REQUIRED_METADATA_FIELD_MISSING Plain EndMigration "The list lacks a field that an import needs.";
    METADATA_ELEMENT_SIZE_INCORRECT Plain FixOperand "A sequence's element size is not the field's.";
    METADATA_LAST_ELEMENT_INCORRECT Plain FixOperand "A sequence ends inside a field.";
    METADATA_FIELD_CURRENTLY_NOT_WRITABLE Plain FixOrder "The field may be written, but not in the present state.";
    METADATA_WR_MASK_NOT_VALID Plain FixOperand "The field takes no write mask, or only a full one.";
    METADATA_FIRST_FIELD_ID_IN_CONTEXT Plain Note "The null id was asked for: RDX has the first field of the context.";
    METADATA_FIELD_SKIP Plain Note "The field does not exist for this TD and is passed over.";
    SERVTD_ALREADY_BOUND_FOR_TYPE Plain FixOrder "A service TD of this type is bound already.";
    SERVTD_TYPE_MISMATCH Plain FixOperand "The slot was kept for another type of service TD.";
    SERVTD_ATTR_MISMATCH Plain FixOperand "The slot was kept with other attributes.";
    SERVTD_INFO_HASH_MISMATCH Plain FixOperand "The service TD is not the one whose hash the slot has.";
    SERVTD_UUID_MISMATCH Plain FixOperand "The service TD is not the one that was bound.";
    SERVTD_NOT_BOUND Index FixOrder "No service TD is bound in the slot.";
    SERVTD_BOUND Plain FixOrder "A service TD is bound in the slot.";
    TARGET_UUID_MISMATCH Plain FixOperand "The target TD is not the one the service TD means.";
    TARGET_UUID_UPDATED Plain FixOperand "The target TD was imported since; its new UUID came back.";
    INVALID_MBMD Plain FixOperand "The migration bundle's metadata is malformed or not the one expected.";
    INCORRECT_MBMD_MAC Plain EndMigration "The migration bundle is not authentic.";
    NOT_WRITE_BLOCKED Plain OldStatus "The page is not blocked for writing.";
    ALREADY_WRITE_BLOCKED Plain OldStatus "The page is blocked for writing already.";
    NOT_EXPORTED Plain OldStatus "The page was not exported.";
    MIGRATION_STREAM_STATE_INCORRECT Plain FixOrder "The migration stream's state does not allow this leaf.";
    MAX_MIGS_NUM_EXCEEDED Plain FixOrder "The TD has as many migration streams as it can have.";
    EXPORTED_DIRTY_PAGES_REMAIN Plain FixOrder "Pages were written since their export and must be exported again.";
    MIGRATION_DECRYPTION_KEY_NOT_SET Plain FixOrder "The migration TD has not set the session's key.";
    TD_NOT_MIGRATABLE Plain FixOperand "The TD was built without ATTRIBUTES.MIGRATABLE.";
    PREVIOUS_EXPORT_CLEANUP_INCOMPLETE Plain FixOrder "Pages of an aborted export are not restored yet (TDH.EXPORT.RESTORE).";
    NUM_MIGS_HIGHER_THAN_CREATED Plain FixOperand "More streams are asked for than were made.";
    IMPORT_MISMATCH Operand EndMigration "What arrives does not fit the page that is there.";
    MIGRATION_EPOCH_OVERFLOW Plain EndMigration "The session has used up its epochs.";
    MAX_EXPORTS_EXCEEDED Plain EndMigration "The TD cannot be exported any more often.";
    INVALID_PAGE_MAC Operand EndMigration "An imported page is not authentic.";
    MIGRATED_IN_CURRENT_EPOCH Operand FixOrder "The page was migrated in this epoch already.";
    DISALLOWED_IMPORT_OVER_REMOVED Operand FixOrder "The page was removed here and cannot be imported in this phase.";
    SOME_VCPUS_NOT_MIGRATED Plain FixOrder "Not all vCPUs have been exported.";
    ALL_VCPUS_IMPORTED Plain FixOrder "All vCPUs have been imported already.";
    MIN_MIGS_NOT_CREATED Plain FixOrder "The TD has fewer migration streams than a session needs.";
    VCPU_ALREADY_EXPORTED Plain FixOrder "The vCPU was exported in this session already.";
    INVALID_MIGRATION_DECRYPTION_KEY Plain EndMigration "The session's key is not usable.";
    INVALID_CPUSVN Plain FixOperand "The report was made at another security version of the CPU.";
    INVALID_REPORTMACSTRUCT Plain FixOperand "The report was not made on this platform since its last start.";
    L2_EXIT_HOST_ROUTED_ASYNC ExitReason HandleExit "An exit of an L2 VM that the VMM handles.";
    L2_EXIT_HOST_ROUTED_TDVMCALL ExitReason HandleExit "A TDG.VP.VMCALL of an L2 VM.";
    L2_EXIT_PENDING_INTERRUPT Plain HandleExit "An L2 VM exited because an interrupt waits for L1.";
    PENDING_INTERRUPT Plain Note "An interrupt waits: the L2 VM was not entered.";
    TD_EXIT_BEFORE_L2_ENTRY ExitReason HandleExit "DEBUG TD: stopped before entering an L2 VM.";
    TD_EXIT_ON_L2_VM_EXIT ExitReason HandleExit "DEBUG TD: stopped at an exit of an L2 VM.";
    TD_EXIT_ON_L2_TO_L1 ExitReason HandleExit "DEBUG TD: stopped at an exit from L2 to L1.";
    GLA_NOT_CANONICAL Plain FixOperand "A linear address is not canonical.";
}
