//! What an SEV-ES or SEV-SNP guest shows its VMM: the GHCB's valid bitmap, by exit code.
//!
//! The registers of such a guest are encrypted; it writes those that an event needs into the GHCB and marks them
//! valid. The inputs of a row are what KVM's `sev_es_validate_vmgexit` requires (Linux `arch/x86/kvm/svm/sev.c`), the
//! outputs what Linux's #VC handlers read back (`arch/x86/coco/sev/`), both as the NAE event table of the GHCB
//! specification (AMD 56421) has them. Each row names its functions.
//!
//! Left out, because the sources read show no register use for them: the results of READ_DR7 (Linux's guest answers
//! from its own copy and never sends it), NPF-based events, SNP_RUN_VMPL, GET_APIC_IDS and SECURE_AVIC (patches only).

use core::fmt;

use x86_arch::Gpr;
use x86_arch::Gpr::{Rax, Rbx, Rcx, Rdx, Rsi};

use crate::{GprFile, GprSet, Window};

/// The 16-byte valid bitmap at GHCB offset 0x3F0: bit n tells of the eight bytes at offset 8n.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ValidBitmap(pub u128);

/// One non-automatic exit, with the registers it shows and takes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NaeEvent {
    /// SW_EXITCODE.
    pub code: u64,
    pub name: &'static str,
    /// Which form of the event SW_EXITINFO1 chooses.
    pub form: Form,
    /// Must be valid.
    pub required: GprSet,
    /// Shown if valid.
    pub optional: GprSet,
    /// What the guest reads back.
    pub outputs: GprSet,
    /// Other fields of the GHCB that must be valid.
    pub fields: &'static [Field],
    pub source: &'static str,
}

/// Which SW_EXITINFO1 a row is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Any,
    /// All bits of the first mask are set and all of the second clear.
    Bits {
        set: u64,
        clear: u64,
    },
    /// Not this value in bits 31:0.
    NotLow(u32),
    Low(u32),
}

/// A field of the GHCB beside the general-purpose registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    Cpl,
    /// Required only for CPUID leaf 0xD.
    Xcr0,
    Scratch,
}

/// What the guest did not provide: SW_EXITINFO1 becomes 2, and SW_EXITINFO2 this reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadEvent {
    /// Reason 4, MISSING_INPUT: registers of the row that are not valid.
    Missing {
        event: &'static NaeEvent,
        gprs: GprSet,
    },
    /// Reason 4, MISSING_INPUT: a field of the row that is not valid.
    MissingField {
        event: &'static NaeEvent,
        field: Field,
    },
    /// Reason 6, INVALID_EVENT: no row has this exit code.
    Unknown { code: u64 },
}

const IN: Form = Form::Bits { set: 1, clear: 4 };
const OUT: Form = Form::Bits { set: 0, clear: 5 };
const STRING: Form = Form::Bits { set: 4, clear: 0 };
const AP_DESTROY: u32 = 2;

const fn row(
    code: u64,
    name: &'static str,
    form: Form,
    required: &[Gpr],
    outputs: &[Gpr],
    fields: &'static [Field],
    source: &'static str,
) -> NaeEvent {
    NaeEvent {
        code,
        name,
        form,
        required: GprSet::of(required),
        optional: GprSet::NONE,
        outputs: GprSet::of(outputs),
        fields,
        source,
    }
}

const VALIDATE: &str = "sev_es_validate_vmgexit";

impl NaeEvent {
    #[rustfmt::skip]
    pub const ALL: &'static [NaeEvent] = &[
        row(0x37, "WRITE_DR7", Form::Any, &[Rax], &[], &[], "sev_es_validate_vmgexit; vc_handle_dr7_write"),
        row(0x6E, "RDTSC", Form::Any, &[], &[Rax, Rdx], &[], "sev_es_validate_vmgexit; vc_handle_rdtsc"),
        row(0x6F, "RDPMC", Form::Any, &[Rcx], &[Rax, Rdx], &[], "sev_es_validate_vmgexit; vc_handle_rdpmc"),
        row(0x72, "CPUID", Form::Any, &[Rax, Rcx], &[Rax, Rbx, Rcx, Rdx], &[Field::Xcr0], "sev_es_validate_vmgexit; vc_handle_cpuid"),
        row(0x76, "INVD", Form::Any, &[], &[], &[], VALIDATE),
        row(0x7B, "IOIO in", IN, &[], &[Rax], &[], "sev_es_validate_vmgexit; vc_handle_ioio"),
        row(0x7B, "IOIO out", OUT, &[Rax], &[], &[], "sev_es_validate_vmgexit; vc_handle_ioio"),
        row(0x7B, "IOIO string", STRING, &[], &[], &[Field::Scratch], "sev_es_validate_vmgexit; vc_handle_ioio"),
        row(0x7C, "MSR read", Form::Low(0), &[Rcx], &[Rax, Rdx], &[], "sev_es_validate_vmgexit; vc_handle_msr"),
        row(0x7C, "MSR write", Form::NotLow(0), &[Rcx, Rax, Rdx], &[], &[], "sev_es_validate_vmgexit; vc_handle_msr"),
        NaeEvent {
            code: 0x81,
            name: "VMMCALL",
            form: Form::Any,
            required: GprSet::of(&[Rax]),
            optional: GprSet::of(&[Rbx, Rcx, Rdx, Rsi]),
            outputs: GprSet::of(&[Rax]),
            fields: &[Field::Cpl],
            source: "sev_es_validate_vmgexit; vc_handle_vmmcall; kvm_sev_es_hcall_prepare",
        },
        row(0x87, "RDTSCP", Form::Any, &[], &[Rax, Rcx, Rdx], &[], "sev_es_validate_vmgexit; vc_handle_rdtsc"),
        row(0x89, "WBINVD", Form::Any, &[], &[], &[], "sev_es_validate_vmgexit; vc_handle_wbinvd"),
        row(0x8A, "MONITOR", Form::Any, &[Rax, Rcx, Rdx], &[], &[], VALIDATE),
        row(0x8B, "MWAIT", Form::Any, &[Rax, Rcx], &[], &[], VALIDATE),
        row(0x8000_0001, "MMIO read", Form::Any, &[], &[], &[Field::Scratch], "sev_es_validate_vmgexit; vc_do_mmio"),
        row(0x8000_0002, "MMIO write", Form::Any, &[], &[], &[Field::Scratch], "sev_es_validate_vmgexit; vc_do_mmio"),
        row(0x8000_0003, "NMI complete", Form::Any, &[], &[], &[], VALIDATE),
        row(0x8000_0004, "AP reset hold", Form::Any, &[], &[], &[], VALIDATE),
        row(0x8000_0005, "AP jump table", Form::Any, &[], &[], &[], VALIDATE),
        row(0x8000_0010, "SNP page state change", Form::Any, &[], &[], &[Field::Scratch], VALIDATE),
        row(0x8000_0011, "SNP guest request", Form::Any, &[], &[], &[], VALIDATE),
        NaeEvent {
            code: 0x8000_0012,
            name: "SNP extended guest request",
            form: Form::Any,
            required: GprSet::NONE,
            optional: GprSet::of(&[Rax, Rbx]),
            outputs: GprSet::of(&[Rbx]),
            fields: &[],
            source: "snp_handle_ext_guest_req; snp_issue_guest_request",
        },
        row(0x8000_0013, "SNP AP creation", Form::NotLow(AP_DESTROY), &[Rax], &[], &[], VALIDATE),
        row(0x8000_0013, "SNP AP destruction", Form::Low(AP_DESTROY), &[], &[], &[], VALIDATE),
        row(0x8000_FFFD, "hypervisor features", Form::Any, &[], &[], &[], VALIDATE),
        row(0x8000_FFFE, "termination request", Form::Any, &[], &[], &[], VALIDATE),
        row(0x8000_FFFF, "unsupported event", Form::Any, &[], &[], &[], VALIDATE),
    ];

    /// The row of an exit code and its SW_EXITINFO1.
    pub fn find(code: u64, info_1: u64) -> Option<&'static NaeEvent> {
        Self::ALL
            .iter()
            .find(|row| row.code == code && row.form.matches(info_1))
    }

    /// A window of what this exit shows (the row's inputs that are valid) and takes back (the row's outputs).
    ///
    /// `file` holds what the VMM copied from the GHCB.
    pub fn window(
        code: u64,
        info_1: u64,
        valid: ValidBitmap,
        file: &mut GprFile,
    ) -> Result<Window<'_, GprFile>, BadEvent> {
        let event = Self::find(code, info_1).ok_or(BadEvent::Unknown { code })?;
        let missing = event.required.without(valid.gprs());
        if !missing.is_empty() {
            return Err(BadEvent::Missing {
                event,
                gprs: missing,
            });
        }
        for &field in event.fields {
            let needed = field != Field::Xcr0 || file[Rax] == 0xD;
            if needed && !valid.has(field) {
                return Err(BadEvent::MissingField { event, field });
            }
        }
        let shown = event
            .required
            .union(event.optional.intersection(valid.gprs()));
        Ok(Window::new(file, shown, event.outputs))
    }
}

impl Form {
    const fn matches(self, info_1: u64) -> bool {
        match self {
            Form::Any => true,
            Form::Bits { set, clear } => info_1 & set == set && info_1 & clear == 0,
            Form::NotLow(value) => info_1 as u32 != value,
            Form::Low(value) => info_1 as u32 == value,
        }
    }
}

impl ValidBitmap {
    /// Offset of a register in the GHCB; RSP's is that of the save area too.
    const fn offset(reg: Gpr) -> u32 {
        match reg {
            Gpr::Rsp => 0x1D8,
            Gpr::Rax => 0x1F8,
            Gpr::Rcx => 0x308,
            Gpr::Rdx => 0x310,
            Gpr::Rbx => 0x318,
            Gpr::Rbp => 0x328,
            Gpr::Rsi => 0x330,
            Gpr::Rdi => 0x338,
            high => 0x340 + 8 * (high as u32 - 8),
        }
    }

    /// The bitmap of a guest that marks these registers.
    pub fn of(regs: GprSet) -> ValidBitmap {
        ValidBitmap(
            regs.iter()
                .fold(0, |bits, reg| bits | 1 << (Self::offset(reg) / 8)),
        )
    }
    pub const fn with(self, field: Field) -> ValidBitmap {
        ValidBitmap(self.0 | 1 << (field.offset() / 8))
    }
    pub const fn has(self, field: Field) -> bool {
        self.0 >> (field.offset() / 8) & 1 != 0
    }
    /// The general-purpose registers marked valid.
    pub fn gprs(self) -> GprSet {
        Gpr::ALL
            .into_iter()
            .filter(|&reg| self.0 >> (Self::offset(reg) / 8) & 1 != 0)
            .fold(GprSet::NONE, |set, reg| set.union(GprSet::of(&[reg])))
    }
}

impl Field {
    const fn offset(self) -> u32 {
        match self {
            Field::Cpl => 0xCB,
            Field::Scratch => 0x3A8,
            Field::Xcr0 => 0x3E8,
        }
    }
}

impl BadEvent {
    /// SW_EXITINFO2 beside a SW_EXITINFO1 of 2 (`GHCB_ERR_*` of Linux `sev-common.h`).
    pub const fn reason(&self) -> u64 {
        match self {
            BadEvent::Missing { .. } | BadEvent::MissingField { .. } => 4,
            BadEvent::Unknown { .. } => 6,
        }
    }
}

impl fmt::Display for BadEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadEvent::Missing { event, gprs } => {
                write!(f, "GHCB exit {}: {gprs} not valid", event.name)
            }
            BadEvent::MissingField { event, field } => {
                write!(f, "GHCB exit {}: {field:?} not valid", event.name)
            }
            BadEvent::Unknown { code } => write!(f, "GHCB exit code {code:#x} is unknown"),
        }
    }
}

impl core::error::Error for BadEvent {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row with a valid bitmap that satisfies it, and an SW_EXITINFO1 that selects it.
    fn rows() -> impl Iterator<Item = (&'static NaeEvent, u64, ValidBitmap)> {
        NaeEvent::ALL.iter().map(|row| {
            let info_1 = match row.form {
                Form::Any => 0,
                Form::Bits { set, .. } => set,
                Form::NotLow(value) => u64::from(value) + 1,
                Form::Low(value) => value.into(),
            };
            let valid = ValidBitmap::of(row.required.union(row.optional));
            (
                row,
                info_1,
                row.fields.iter().fold(valid, |v, &f| v.with(f)),
            )
        })
    }

    #[test]
    fn each_event_shows_its_inputs_and_takes_its_outputs_and_nothing_else() {
        for (row, info_1, valid) in rows() {
            assert_eq!(NaeEvent::find(row.code, info_1), Some(row));
            let mut file = GprFile::default();
            let mut window = NaeEvent::window(row.code, info_1, valid, &mut file).unwrap();
            for reg in Gpr::ALL {
                let shown = row.required.union(row.optional).contains(reg);
                assert_eq!(window.get(reg).is_ok(), shown, "{} {reg}", row.name);
                let taken = row.outputs.contains(reg);
                assert_eq!(window.set(reg, 1).is_ok(), taken, "{} {reg}", row.name);
            }
        }
    }

    #[test]
    fn a_vmm_that_reads_rbx_of_a_cpuid_exit_is_caught() {
        let valid = ValidBitmap::of(GprSet::of(&[Rax, Rcx]));
        let mut file = GprFile::default();
        let window = NaeEvent::window(0x72, 0, valid, &mut file).unwrap();
        let error = window.get(Rbx).unwrap_err();
        assert_eq!((error.reg, error.at.file()), (Rbx, file!()));
    }

    #[test]
    fn a_register_that_the_guest_marks_beyond_its_event_stays_hidden() {
        let valid = ValidBitmap::of(GprSet::ALL);
        let mut file = GprFile::default();
        let window = NaeEvent::window(0x6E, 0, valid, &mut file).unwrap();
        assert_eq!(window.readable(), GprSet::NONE);
    }

    #[test]
    fn each_missing_input_is_named_with_reason_4() {
        for (row, info_1, valid) in rows() {
            for reg in row.required.iter() {
                let without = ValidBitmap(valid.0 & !ValidBitmap::of(GprSet::of(&[reg])).0);
                let mut file = GprFile::default();
                let error = NaeEvent::window(row.code, info_1, without, &mut file).unwrap_err();
                let gprs = GprSet::of(&[reg]);
                assert_eq!(error, BadEvent::Missing { event: row, gprs });
                assert_eq!(error.reason(), 4);
            }
        }
        let mut file = GprFile::default();
        let error = NaeEvent::window(0x1234, 0, ValidBitmap(0), &mut file).unwrap_err();
        assert_eq!(error.reason(), 6);
    }

    #[test]
    fn xcr0_is_required_for_cpuid_leaf_d_only() {
        let valid = ValidBitmap::of(GprSet::of(&[Rax, Rcx]));
        let mut file = GprFile::default();
        file[Rax] = 0xD;
        let error = NaeEvent::window(0x72, 0, valid, &mut file).unwrap_err();
        assert!(matches!(
            error,
            BadEvent::MissingField {
                field: Field::Xcr0,
                ..
            }
        ));
        let with = valid.with(Field::Xcr0);
        assert!(NaeEvent::window(0x72, 0, with, &mut file).is_ok());
    }

    #[test]
    fn the_bitmap_follows_the_ghcb_layout() {
        // RAX at 0x1F8 is bit 63, XCR0 at 0x3E8 bit 125, R15 at 0x378 bit 111.
        assert_eq!(ValidBitmap::of(GprSet::of(&[Rax])).0, 1 << 63);
        assert_eq!(ValidBitmap(0).with(Field::Xcr0).0, 1 << 125);
        assert_eq!(ValidBitmap::of(GprSet::of(&[Gpr::R15])).0, 1 << 111);
        assert_eq!(ValidBitmap::of(GprSet::ALL).gprs(), GprSet::ALL);
    }
}
