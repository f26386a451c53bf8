/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Calls the six functions; prints "ok" or the first line that failed. */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
#include "tdx_call.h"

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			printf("line %d: %s\n", __LINE__, #condition); \
			return 1; \
		} \
	} while (0)

_Static_assert(sizeof(struct tdx_module_args) == 104, "as Linux's");
_Static_assert(offsetof(struct tdx_module_args, r15) - offsetof(struct tdx_module_args, r8) == 56, "r8 to r15 contiguous");
_Static_assert(offsetof(struct tdx_module_args, rsi) == 96, "rsi last");

/* What plays the module in the handler below; absent at first. */
static struct {
	int present;
	int answer; /* 0, the vector 6 or 13, or -1 for VMfailInvalid */
	int all;    /* change every register, as only TDH.VP.ENTER and its like do */
	int tdcall; /* which instruction came */
	uint64_t gprs[16];
} module;

static const int greg[16] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static void on_sigill(int signal, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	const unsigned char *code = (const unsigned char *)regs[REG_RIP];
	uintptr_t fixup = tdx_fixup(regs[REG_RIP]);
	int vector = module.present ? module.answer : 6;

	(void)signal;
	(void)info;
	if (!fixup || memcmp(code, "\x66\x0F\x01", 3))
		_exit(2);
	if (vector > 0) {
		regs[REG_RAX] = vector;
		regs[REG_RIP] = fixup;
		return;
	}
	module.tdcall = code[3] == 0xCC;
	for (int i = 0; i < 16; i++)
		module.gprs[i] = regs[greg[i]];
	regs[REG_RIP] += 4;
	regs[REG_EFL] &= ~1LL;
	if (vector < 0) {
		regs[REG_EFL] |= 1;
		return;
	}
	for (int i = 0; i < 16; i++)
		if (module.all ? i != 4 : i < 3 || (i >= 8 && i < 12)) /* never RSP */
			regs[greg[i]] = 0x100 + i;
}

typedef uint64_t (*call_fn)(uint64_t, struct tdx_module_args *);

static void fill(struct tdx_module_args *args)
{
	uint64_t *word = (uint64_t *)args;
	for (int i = 0; i < 13; i++)
		word[i] = 0x50 + i;
}

int main(void)
{
	static const int order[13] = {1, 2, 8, 9, 10, 11, 12, 13, 14, 15, 3, 7, 6};
	call_fn saved[2] = {__seamcall_saved_ret, __tdcall_saved_ret};
	call_fn ret[2] = {__seamcall_ret, __tdcall_ret};
	call_fn in[2] = {__seamcall, __tdcall};
	struct tdx_module_args args, before;
	struct sigaction action = {.sa_sigaction = on_sigill, .sa_flags = SA_SIGINFO};

	fill(&args);
	before = args;
	CHECK(sigaction(SIGILL, &action, NULL) == 0);
	CHECK(tdx_fixup((uintptr_t)main) == 0);
	for (int side = 0; side < 2; side++) {
		CHECK(in[side](33, &args) == TDX_SEAMCALL_UD);
		CHECK(ret[side](33, &args) == TDX_SEAMCALL_UD);
		CHECK(saved[side](33, &args) == TDX_SEAMCALL_UD);
		CHECK(memcmp(&args, &before, sizeof(args)) == 0);
	}

	module.present = 1;
	for (int side = 0; side < 2; side++) {
		uint64_t *word = (uint64_t *)&args;

		fill(&args);
		CHECK(in[side](33, &args) == 0x100);
		CHECK(module.tdcall == side && module.gprs[0] == 33);
		for (int i = 0; i < 6; i++)
			CHECK(module.gprs[order[i]] == 0x50u + i);
		CHECK(memcmp(&args, &before, sizeof(args)) == 0);
	}
	for (int side = 0; side < 2; side++) {
		uint64_t *word = (uint64_t *)&args;

		fill(&args);
		CHECK(ret[side](34, &args) == 0x100);
		for (int i = 0; i < 13; i++)
			CHECK(word[i] == (i < 6 ? 0x100u + order[i] : 0x50u + i));
	}
	module.all = 1;
	for (int side = 0; side < 2; side++) {
		uint64_t *word = (uint64_t *)&args;

		fill(&args);
		CHECK(saved[side](48, &args) == 0x100);
		for (int i = 0; i < 13; i++) {
			CHECK(module.gprs[order[i]] == 0x50u + i);
			CHECK(word[i] == 0x100u + order[i]);
		}
	}
	module.answer = -1;
	CHECK(__seamcall_saved_ret(0, &args) == TDX_SEAMCALL_VMFAILINVALID);
	module.answer = 13;
	CHECK(__seamcall_ret(0, &args) == TDX_SEAMCALL_GP);
	module.present = 0;
	CHECK(__seamcall(33, &args) == TDX_SEAMCALL_UD);
	puts("ok");
	return 0;
}
