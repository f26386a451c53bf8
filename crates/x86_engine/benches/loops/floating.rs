//! Loops of floating-point arithmetic.

use crate::{DATA, Program, count_down, exit, imm32, jump_back};

const SIDE: u32 = 256;
const LIMIT: u32 = 200;

/// The Mandelbrot set in scalar doubles, point by point; RBX counts the steps of all of them.
pub fn mandelbrot() -> Program {
    let mut code = vec![0x31, 0xDB, 0x31, 0xF6]; // xor ebx, ebx; xor esi, esi
    load_double(&mut code, 5, 4.0);
    let row = code.len();
    code.extend([0x31, 0xFF]); // xor edi, edi
    let point = code.len();
    load_double(&mut code, 2, 3.0 / f64::from(SIDE));
    load_double(&mut code, 3, -2.0);
    load_double(&mut code, 4, -1.5);
    code.extend([0xF2, 0x0F, 0x2A, 0xF7]); // cvtsi2sd xmm6, edi
    code.extend([0xF2, 0x0F, 0x59, 0xF2]); // mulsd xmm6, xmm2
    code.extend([0xF2, 0x0F, 0x58, 0xF3]); // addsd xmm6, xmm3
    code.extend([0xF2, 0x0F, 0x2A, 0xFE]); // cvtsi2sd xmm7, esi
    code.extend([0xF2, 0x0F, 0x59, 0xFA]); // mulsd xmm7, xmm2
    code.extend([0xF2, 0x0F, 0x58, 0xFC]); // addsd xmm7, xmm4
    code.extend([0x0F, 0x57, 0xC0, 0x0F, 0x57, 0xC9]); // xorps xmm0, xmm0; xorps xmm1, xmm1
    code.push(0xB9);
    code.extend(LIMIT.to_le_bytes()); // mov ecx, limit
    let step = code.len();
    code.extend([0x66, 0x0F, 0x28, 0xD0]); // movapd xmm2, xmm0
    code.extend([0xF2, 0x0F, 0x59, 0xD0]); // mulsd xmm2, xmm0
    code.extend([0x66, 0x0F, 0x28, 0xD9]); // movapd xmm3, xmm1
    code.extend([0xF2, 0x0F, 0x59, 0xD9]); // mulsd xmm3, xmm1
    code.extend([0x66, 0x0F, 0x28, 0xE2]); // movapd xmm4, xmm2
    code.extend([0xF2, 0x0F, 0x58, 0xE3]); // addsd xmm4, xmm3
    code.extend([0x66, 0x0F, 0x2E, 0xE5]); // ucomisd xmm4, xmm5
    code.extend([0x77, 0]); // ja outside
    let outside = code.len() - 1;
    code.extend([0xF2, 0x0F, 0x59, 0xC8]); // mulsd xmm1, xmm0
    code.extend([0xF2, 0x0F, 0x58, 0xC9]); // addsd xmm1, xmm1
    code.extend([0xF2, 0x0F, 0x58, 0xCF]); // addsd xmm1, xmm7
    code.extend([0xF2, 0x0F, 0x5C, 0xD3]); // subsd xmm2, xmm3
    code.extend([0xF2, 0x0F, 0x58, 0xD6]); // addsd xmm2, xmm6
    code.extend([0x66, 0x0F, 0x28, 0xC2]); // movapd xmm0, xmm2
    code.extend([0xFF, 0xC3]); // inc ebx
    count_down(&mut code, step);
    code[outside] = (code.len() - outside - 1) as u8;
    for (register, start) in [(7, point), (6, row)] {
        code.extend([0xFF, 0xC0 | register, 0x81, 0xF8 | register]); // inc; cmp with the side
        code.extend(SIDE.to_le_bytes());
        jump_back(&mut code, 0x72, start);
    }
    exit(&mut code);
    Program {
        name: "Mandelbrot",
        code,
        check: Some(mandelbrot_steps()),
    }
}

/// The same in Rust, whose doubles are the processor's.
fn mandelbrot_steps() -> u64 {
    let scale = 3.0 / f64::from(SIDE);
    let mut steps = 0;
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (cx, cy) = (f64::from(x) * scale - 2.0, f64::from(y) * scale - 1.5);
            let (mut zx, mut zy) = (0.0, 0.0);
            for _ in 0..LIMIT {
                let (xx, yy) = (zx * zx, zy * zy);
                if xx + yy > 4.0 {
                    break;
                }
                zy *= zx;
                zy = zy + zy + cy;
                zx = xx - yy + cx;
                steps += 1;
            }
        }
    }
    steps
}

/// y += a * x on 4096 packed singles, 5000 times.
pub fn saxpy() -> Program {
    const COUNT: u64 = 4096;
    let mut code = vec![0xBE]; // mov esi, x; mov edi, y
    code.extend(imm32(DATA));
    code.push(0xBF);
    code.extend(imm32(DATA + COUNT * 4));
    code.extend([0x31, 0xC0]); // xor eax, eax
    let fill = code.len();
    code.extend([0xF3, 0x0F, 0x2A, 0xC0]); // cvtsi2ss xmm0, eax
    code.extend([0xF3, 0x0F, 0x11, 0x04, 0x86]); // movss [rsi + rax * 4], xmm0
    code.extend([0xFF, 0xC0, 0x3D]); // inc eax; cmp eax, count
    code.extend(imm32(COUNT));
    jump_back(&mut code, 0x72, fill);
    code.push(0xB8); // mov eax, 0.5f; movd xmm0, eax; shufps xmm0, xmm0, 0
    code.extend(0.5f32.to_bits().to_le_bytes());
    code.extend([0x66, 0x0F, 0x6E, 0xC0, 0x0F, 0xC6, 0xC0, 0]);
    code.push(0xB9);
    code.extend(imm32(5_000));
    let start = code.len();
    code.extend([0x31, 0xC0]);
    let inner = code.len();
    code.extend([0x0F, 0x10, 0x0C, 0x86]); // movups xmm1, [rsi + rax * 4]
    code.extend([0x0F, 0x59, 0xC8]); // mulps xmm1, xmm0
    code.extend([0x0F, 0x10, 0x14, 0x87]); // movups xmm2, [rdi + rax * 4]
    code.extend([0x0F, 0x58, 0xD1]); // addps xmm2, xmm1
    code.extend([0x0F, 0x11, 0x14, 0x87]); // movups [rdi + rax * 4], xmm2
    code.extend([0x83, 0xC0, 4, 0x3D]); // add eax, 4; cmp eax, count
    code.extend(imm32(COUNT));
    jump_back(&mut code, 0x72, inner);
    count_down(&mut code, start);
    code.extend([0x8B, 0x5F, 12]); // mov ebx, [rdi + 12]
    exit(&mut code);
    Program {
        name: "SAXPY",
        code,
        check: Some(u64::from((5_000.0f32 * 1.5).to_bits())),
    }
}

/// `mov rax, bits; movq xmm, rax`, for XMM0 to XMM7.
fn load_double(code: &mut Vec<u8>, xmm: u8, value: f64) {
    code.extend([0x48, 0xB8]);
    code.extend(value.to_bits().to_le_bytes());
    code.extend([0x66, 0x48, 0x0F, 0x6E, 0xC0 | xmm << 3]);
}
