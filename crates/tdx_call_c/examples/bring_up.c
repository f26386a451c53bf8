/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A host in C: brings a TDX module up, builds a TD of one page and one vCPU, runs it until the host's timer
 * interrupts it, and takes everything down again. Prints each kind of call with its completion status.
 *
 *   cargo rustc --release -p tdx_call_c --crate-type staticlib -- -C panic=abort
 *   cc -I crates/tdx_call_c/include crates/tdx_call_c/examples/bring_up.c target/release/libtdx_call_c.a -o bring_up
 *   swtdx exec -- ./bring_up
 */
#define _GNU_SOURCE
#include <string.h>

#include "swtdx_exec.h"
#include "tdx_call.h"

#define PAGE 0x1000ULL
#define MIB 0x100000ULL
#define GIB 0x40000000ULL
#define STATUS(rax) ((rax) >> 32)
#define INTERRUPTED_RESUMABLE 0x80000003ULL

enum leaf {
	VP_ENTER = 0, MNG_ADDCX = 1, MEM_PAGE_ADD = 2, MEM_SEPT_ADD = 3, VP_ADDCX = 4, MNG_KEY_CONFIG = 8,
	MNG_CREATE = 9, VP_CREATE = 10, MR_EXTEND = 16, MR_FINALIZE = 17, VP_FLUSH = 18, MNG_VPFLUSHDONE = 19,
	MNG_KEY_FREEID = 20, MNG_INIT = 21, VP_INIT = 22, PHYMEM_PAGE_RECLAIM = 28, SYS_KEY_CONFIG = 31, SYS_INFO = 32,
	SYS_INIT = 33, SYS_LP_INIT = 35, SYS_TDMR_INIT = 36, PHYMEM_CACHE_WB = 40, SYS_CONFIG = 45,
};

static struct swtdx_machine machine;
static struct tdx_module_args args;

/* Physical pages, handed out one after the other. */
static uint64_t next_page = MIB;
static uint64_t pages[64];
static int taken;

static uint64_t page(void)
{
	uint64_t pa = next_page;

	next_page += PAGE;
	pages[taken++] = pa;
	return pa;
}

static void *at(uint64_t pa)
{
	return machine.memory + pa;
}

static void put(uint64_t pa, uint64_t value)
{
	memcpy(at(pa), &value, sizeof(value));
}

static uint16_t get16(uint64_t pa)
{
	uint16_t value;

	memcpy(&value, at(pa), sizeof(value));
	return value;
}

static uint64_t get(uint64_t pa)
{
	uint64_t value;

	memcpy(&value, at(pa), sizeof(value));
	return value;
}

/* A call that must succeed; repeats of one kind are told in one line. */
static void call(const char *name, enum leaf leaf, uint64_t rcx, uint64_t rdx, uint64_t r8, uint64_t r9)
{
	static const char *last = "";
	uint64_t rax;

	do {
		args = (struct tdx_module_args){.rcx = rcx, .rdx = rdx, .r8 = r8, .r9 = r9};
		rax = __seamcall_ret(leaf, &args);
		if (leaf == PHYMEM_CACHE_WB)
			rcx = 1; /* go on where it was interrupted */
	} while (STATUS(rax) == INTERRUPTED_RESUMABLE);
	if (strcmp(name, last))
		printf("%-24s 0x%016llx\n", name, (unsigned long long)rax);
	last = name;
	if (rax >> 63) {
		printf("%s failed: rcx 0x%llx rdx 0x%llx\n", name, (unsigned long long)args.rcx,
		       (unsigned long long)args.rdx);
		exit(1);
	}
}

/* One TDMR over the first GiB; its PAMT at the end of memory, and what is no memory reserved. */
static void configure(uint64_t end)
{
	uint64_t info = page(), list = page();
	uint64_t pamt_4k = end - GIB / PAGE * 16, pamt_2m = pamt_4k - 2 * PAGE, pamt_1g = pamt_2m - PAGE;

	taken = 0;
	put(info + 0, 0);
	put(info + 8, GIB);
	put(info + 16, pamt_1g);
	put(info + 24, PAGE);
	put(info + 32, pamt_2m);
	put(info + 40, 2 * PAGE);
	put(info + 48, pamt_4k);
	put(info + 56, end - pamt_4k);
	put(info + 64, 0);
	put(info + 72, MIB);
	put(info + 80, pamt_1g);
	put(info + 88, GIB - pamt_1g);
	put(list, info);
	call("TDH.SYS.CONFIG", SYS_CONFIG, list, 1, machine.first_key, 0);
	call("TDH.SYS.KEY.CONFIG", SYS_KEY_CONFIG, 0, 0, 0, 0);
	do {
		call("TDH.SYS.TDMR.INIT", SYS_TDMR_INIT, 0, 0, 0, 0);
	} while (args.rdx < GIB);
}

static void set_params(uint64_t params)
{
	uint16_t max_vcpus = 1, tsc_25mhz = 40;

	memset(at(params), 0, PAGE);
	put(params + 0, 1 << 28);      /* ATTRIBUTES: SEPT_VE_DISABLE */
	put(params + 8, 3);            /* XFAM: x87 and SSE */
	memcpy(at(params + 16), &max_vcpus, 2);
	put(params + 24, 3 << 3 | 6);  /* EPTP controls: four levels, write-back */
	memcpy(at(params + 40), &tsc_25mhz, 2);
}

int main(void)
{
	uint64_t info, tdr, tdvpr, source, params, code = 0xFFFFF000, rax;
	unsigned int tdcs, tdvps;
	int error = swtdx_machine(&machine);

	if (error) {
		fprintf(stderr, "bring_up: %s\n",
			error == ENODEV ? "run me under swtdx exec" : strerror(error));
		return 1;
	}
	call("TDH.SYS.INIT", SYS_INIT, 0, 0, 0, 0);
	call("TDH.SYS.LP.INIT", SYS_LP_INIT, 0, 0, 0, 0);
	info = page();
	call("TDH.SYS.INFO", SYS_INFO, info, 1024, info + 1024, 32);
	printf("  module %u.%u, CMR 0: [0x%llx, 0x%llx)\n", get16(info + 16), get16(info + 14),
	       (unsigned long long)get(info + 1024), (unsigned long long)(get(info + 1024) + get(info + 1032)));
	tdcs = get16(info + 48) / PAGE;
	tdvps = get16(info + 52) / PAGE;
	configure(get(info + 1024) + get(info + 1032));

	source = page();
	params = page();
	taken = 0;
	tdr = page();
	call("TDH.MNG.CREATE", MNG_CREATE, tdr, machine.first_key + 1, 0, 0);
	call("TDH.MNG.KEY.CONFIG", MNG_KEY_CONFIG, tdr, 0, 0, 0);
	for (unsigned int n = 0; n < tdcs; n++)
		call("TDH.MNG.ADDCX", MNG_ADDCX, page(), tdr, 0, 0);
	set_params(params);
	call("TDH.MNG.INIT", MNG_INIT, tdr, params, 0, 0);

	tdvpr = page();
	call("TDH.VP.CREATE", VP_CREATE, tdvpr, tdr, 0, 0);
	for (unsigned int n = 1; n < tdvps; n++)
		call("TDH.VP.ADDCX", VP_ADDCX, page(), tdvpr, 0, 0);
	call("TDH.VP.INIT", VP_INIT, tdvpr, 0, 0, 0);

	for (int level = 3; level > 0; level--)
		call("TDH.MEM.SEPT.ADD", MEM_SEPT_ADD, (code & ~((PAGE << 9 * level) - 1)) | level, tdr, page(), 0);
	/* At the reset vector, FFFFFFF0: jmp $. */
	memset(at(source), 0, PAGE);
	memcpy(at(source + 0xFF0), "\xEB\xFE", 2);
	call("TDH.MEM.PAGE.ADD", MEM_PAGE_ADD, code, tdr, page(), source);
	for (uint64_t offset = 0; offset < PAGE; offset += 256)
		call("TDH.MR.EXTEND", MR_EXTEND, code + offset, tdr, 0, 0);
	call("TDH.MR.FINALIZE", MR_FINALIZE, tdr, 0, 0, 0);

	args = (struct tdx_module_args){.rcx = tdvpr};
	rax = __seamcall_saved_ret(VP_ENTER, &args);
	printf("%-24s 0x%016llx\n", "TDH.VP.ENTER", (unsigned long long)rax);
	printf("  exit reason %llu, vector 0x%llx\n", (unsigned long long)(rax & 0xFFFF),
	       (unsigned long long)(args.r9 & 0xFF));

	call("TDH.VP.FLUSH", VP_FLUSH, tdvpr, 0, 0, 0);
	call("TDH.MNG.VPFLUSHDONE", MNG_VPFLUSHDONE, tdr, 0, 0, 0);
	call("TDH.PHYMEM.CACHE.WB", PHYMEM_CACHE_WB, 0, 0, 0, 0);
	call("TDH.MNG.KEY.FREEID", MNG_KEY_FREEID, tdr, 0, 0, 0);
	/* The TDR last. */
	for (int n = taken - 1; n >= 0; n--)
		call("TDH.PHYMEM.PAGE.RECLAIM", PHYMEM_PAGE_RECLAIM, pages[n], 0, 0, 0);
	printf("%d pages reclaimed\n", taken);
	return 0;
}
