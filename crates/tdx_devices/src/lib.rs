//! Devices of a TD: serial, RTC, PCI, virtio, ACPI, TD HOB.
