//! How long parsing and measuring a 2 MiB image takes: `cargo bench -p tdvf`.

use tdvf::{Image, Mrtd, Order};

fn main() {
    divan::main();
}

/// An image of OVMF's shape: 1920 KiB of code that is measured and 128 KiB of variables that are not.
fn image() -> Vec<u8> {
    let mut image: Vec<u8> = (0..2 << 20).map(|i: u32| (i * 31 >> 3) as u8).collect();
    let at = image.len() - 0x1000;
    image[at..at + 4].copy_from_slice(b"TDVF");
    let sections: [[u32; 8]; 2] = [
        [0x2_0000, 0x1E_0000, 0xFFE2_0000, 0, 0x1E_0000, 0, 0, 1],
        [0, 0x2_0000, 0xFFE0_0000, 0, 0x2_0000, 0, 1, 0],
    ];
    for (i, word) in [16 + 64, 1, 2]
        .into_iter()
        .chain(sections.into_iter().flatten())
        .enumerate()
    {
        image[at + 4 + 4 * i..at + 8 + 4 * i].copy_from_slice(&u32::to_le_bytes(word));
    }
    let end = image.len();
    image[end - 32..end - 28].copy_from_slice(&(at as u32).to_le_bytes());
    image
}

#[divan::bench(args = [Order::PageByPage, Order::TwoPasses])]
fn mrtd_of_2_mib(bencher: divan::Bencher<'_, '_>, order: Order) {
    let bytes = image();
    bencher.bench(|| {
        let image = Image::parse(&bytes).unwrap();
        let mut mrtd = Mrtd::new();
        image.plan(order).for_each(|step| mrtd.step(&step));
        mrtd.finish()
    });
}

#[divan::bench]
fn parse(bencher: divan::Bencher<'_, '_>) {
    let bytes = image();
    bencher.bench(|| Image::parse(&bytes).unwrap().sections().count());
}
