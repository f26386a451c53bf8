//! ACPI tables of a hardware-reduced platform (ACPI 6.5).

use acpi_tables::Aml;
use acpi_tables::aml;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::memory_map::{COM1, COM1_IRQ, IOAPIC, PCI_HIGH, PCI_LOW};
use crate::{pci, power};

const OEM: [u8; 6] = *b"SWTDX ";
const TABLE: [u8; 8] = *b"SWTDX   ";

/// What the tables say that is not the same for every TD.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    pub vcpus: u32,
    /// What the direct-boot firmware has in memory. EDK II says the same of itself in tables that it adds.
    pub firmware: Option<FirmwareMemory>,
}

/// Guest physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct FirmwareMemory {
    /// The multiprocessor-wakeup mailbox.
    pub mailbox: u64,
    /// The firmware's event log.
    pub log: u64,
    pub log_size: u64,
}

/// All tables as they lie at `base`; the RSDP is at their start.
pub fn tables(base: u64, platform: Platform) -> Vec<u8> {
    let mut all = vec![0u8; Rsdp::len().next_multiple_of(16)];
    let mut place = |table: &[u8]| -> u64 {
        let at = base + all.len() as u64;
        all.extend_from_slice(table);
        all.resize(all.len().next_multiple_of(16), 0);
        at
    };
    let dsdt = place(dsdt().as_slice());
    let fadt = place(&fadt(dsdt));
    let madt = place(madt(platform).as_slice());
    let mut listed = vec![fadt, madt];
    if let Some(firmware) = platform.firmware {
        listed.push(place(ccel(firmware).as_slice()));
    }
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    for table in listed {
        xsdt.add_entry(table);
    }
    let xsdt = place(&bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    all[..rsdp.len()].copy_from_slice(&rsdp);
    all
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(address: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        address.into(),
    )
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::Wbinvd)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    fadt.sleep_control_reg = port(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(power::SLEEP_STATUS);
    fadt.reset_reg = port(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    // IAPC_BOOT_ARCH: no VGA (bit 2), no MSI restriction, no CMOS clock (bit 5): its time can be read, but it raises no
    // interrupts for a driver.
    fadt.iapc_boot_arch = (1u16 << 2 | 1 << 5).into();
    bytes(&fadt.finalize())
}

fn dsdt() -> Sdt {
    let serial = aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::Interrupt::new(true, true, false, false, COM1_IRQ.into()),
                    &aml::IO::new(COM1, COM1, 0, 8),
                ]),
            ),
        ],
    )
    .bytes_of();
    let soft_off = aml::Name::new(
        "_S5_".into(),
        &aml::Package::new(vec![&power::S5, &aml::ZERO]),
    );
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, 1);
    dsdt.append_slice(&bytes(&soft_off));
    dsdt.append_slice(&serial);
    dsdt.append_slice(&pci_root());
    dsdt
}

/// The PCI host bridge: what its bus may use, and where interrupt pins go.
fn pci_root() -> Vec<u8> {
    let cacheable = aml::AddressSpaceCacheable::NotCacheable;
    let low = PCI_LOW.map(|range| {
        aml::AddressSpace::new_memory(cacheable, true, range.start, range.end - 1, None)
    });
    let high =
        aml::AddressSpace::new_memory(cacheable, true, PCI_HIGH.start, PCI_HIGH.end - 1, None);
    // Address of the device with any function, pin INTA, no link device, input of the I/O APIC.
    let routes: Vec<[u32; 4]> = (1..=pci::SLOTS as u8)
        .map(|slot| {
            [
                u32::from(slot) << 16 | 0xFFFF,
                0,
                0,
                pci::irq_of(slot).into(),
            ]
        })
        .collect();
    let routes: Vec<aml::Package<'_>> = routes
        .iter()
        .map(|route| aml::Package::new(route.iter().map(|word| word as &dyn Aml).collect()))
        .collect();
    aml::Device::new(
        "_SB_.PCI0".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08")),
            &aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_SEG".into(), &aml::ZERO),
            &aml::Name::new("_BBN".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::AddressSpace::new_bus_number(0u16, 0),
                    &aml::IO::new(pci::CONFIG_ADDRESS, pci::CONFIG_ADDRESS, 1, 8),
                    &low[0],
                    &low[1],
                    &high,
                ]),
            ),
            &aml::Name::new(
                "_PRT".into(),
                &aml::Package::new(routes.iter().map(|route| route as &dyn Aml).collect()),
            ),
        ],
    )
    .bytes_of()
}

/// `Aml` as bytes, while the parts it borrows are alive.
trait BytesOf {
    fn bytes_of(&self) -> Vec<u8>;
}
impl<T: Aml> BytesOf for T {
    fn bytes_of(&self) -> Vec<u8> {
        bytes(self)
    }
}

/// MADT: an x2APIC or local APIC per vCPU, the I/O APIC, the wakeup mailbox (type 0x10).
fn madt(platform: Platform) -> Sdt {
    const LOCAL_APIC: u32 = 0xFEE0_0000;
    let mut madt = Sdt::new(*b"APIC", 36, 6, OEM, TABLE, 1);
    madt.append_slice(&LOCAL_APIC.to_le_bytes());
    // No PC/AT-compatible pair of 8259s.
    madt.append_slice(&0u32.to_le_bytes());
    for id in 0..platform.vcpus {
        match u8::try_from(id) {
            // Processor local APIC: uid, id, enabled.
            Ok(short) if short < 0xFF => madt.append_slice(&[0, 8, short, short, 1, 0, 0, 0]),
            _ => {
                // Processor local x2APIC: id, enabled, uid.
                let mut entry = vec![9, 16, 0, 0];
                for word in [id, 1, id] {
                    entry.extend_from_slice(&word.to_le_bytes());
                }
                madt.append_slice(&entry);
            }
        }
    }
    let mut io_apic = vec![1, 12, 0, 0];
    io_apic.extend_from_slice(&(IOAPIC as u32).to_le_bytes());
    io_apic.extend_from_slice(&0u32.to_le_bytes());
    madt.append_slice(&io_apic);
    if let Some(firmware) = platform.firmware {
        let mut wakeup = vec![0x10, 16, 0, 0, 0, 0, 0, 0];
        wakeup.extend_from_slice(&firmware.mailbox.to_le_bytes());
        madt.append_slice(&wakeup);
    }
    madt
}

/// CCEL: where the event log is (UEFI 2.10, 38.4.1): CC type 2 is TDX.
fn ccel(firmware: FirmwareMemory) -> Sdt {
    let mut ccel = Sdt::new(*b"CCEL", 36, 1, OEM, TABLE, 1);
    ccel.append_slice(&[2, 0, 0, 0]);
    ccel.append_slice(&firmware.log_size.to_le_bytes());
    ccel.append_slice(&firmware.log.to_le_bytes());
    ccel
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x90_2000;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_with_a_good_checksum() {
        let platform = Platform {
            vcpus: 2,
            firmware: Some(FirmwareMemory {
                mailbox: 0x88_0000,
                log: 0x92_0000,
                log_size: 0x1_0000,
            }),
        };
        let all = tables(BASE, platform);
        let at = |address: u64| &all[(address - BASE) as usize..];
        let table = |address: u64| {
            let bytes = at(address);
            let length = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")) as usize;
            let sum = bytes[..length]
                .iter()
                .fold(0u8, |sum, b| sum.wrapping_add(*b));
            assert_eq!(sum, 0, "{:?}", std::str::from_utf8(&bytes[..4]));
            &bytes[..length]
        };
        assert_eq!(&all[..8], b"RSD PTR ");
        let xsdt = table(word(&all, 24));
        let names: Vec<&[u8]> = xsdt[36..]
            .chunks(8)
            .map(|entry| &table(word(entry, 0))[..4])
            .collect();
        assert_eq!(names, [b"FACP", b"APIC", b"CCEL"]);
        let fadt = table(word(xsdt, 36));
        assert_eq!(&table(word(fadt, 140))[..4], b"DSDT");
        let madt = table(word(xsdt, 44));
        // Two local APICs, the I/O APIC, then the mailbox.
        assert_eq!(madt.len(), 44 + 2 * 8 + 12 + 16);
        assert_eq!(word(madt, madt.len() - 8), 0x88_0000);
    }

    #[test]
    fn the_255th_processor_has_an_x2apic_entry() {
        let platform = Platform {
            vcpus: 256,
            firmware: None,
        };
        let madt = madt(platform);
        assert_eq!(madt.as_slice().len(), 44 + 255 * 8 + 16 + 12);
    }
}
