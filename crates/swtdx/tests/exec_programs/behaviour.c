/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a program under `swtdx exec` keeps for itself and what it gets: signals, threads, children, flags, faults. */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct result {
	uint64_t rax, rcx, flags;
};

/* The two instructions as bytes, with RAX, RCX, RDX and R8 given and all arithmetic flags set before. */
#define INSTRUCTION(name, bytes) \
	static struct result name(uint64_t rax, uint64_t rcx, uint64_t rdx, uint64_t r8) \
	{ \
		struct result r; \
		register uint64_t r8_ asm("r8") = r8; \
		asm volatile("mov $0xD500, %%r12d\n\txchg %%rax, %%r12\n\tsahf\n\txchg %%rax, %%r12\n\t" \
			     ".byte " bytes "\n\tpushfq\n\tpopq %%r12\n\tmov %%r12, %2" \
			     : "+a"(rax), "+c"(rcx), "=r"(r.flags), "+d"(rdx), "+r"(r8_) \
			     : \
			     : "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rbx", "rsi", "rdi", "memory", "cc"); \
		r.rax = rax; \
		r.rcx = rcx; \
		return r; \
	}

INSTRUCTION(seamcall, "0x66, 0x0f, 0x01, 0xcf")
INSTRUCTION(tdcall, "0x66, 0x0f, 0x01, 0xcc")

static sigjmp_buf back;
static volatile sig_atomic_t seen;

static void jump(int signal)
{
	siglongjmp(back, signal);
}

static void note(int signal)
{
	seen = signal;
}

static sem_t called, go_home;

static void *on_thread(void *to)
{
	*(struct result *)to = seamcall(35, 0, 0, 0); /* TDH.SYS.LP.INIT */
	sem_post(&called);
	sem_wait(&go_home);
	return NULL;
}

static void *wait_for_ever(void *nothing)
{
	for (;;)
		pause();
	return nothing;
}

int main(int argc, char **argv)
{
	static unsigned char report[1024] __attribute__((aligned(1024)));
	static unsigned char data[64] __attribute__((aligned(64)));
	struct result r, of_threads[5];
	pthread_t threads[5], victim;
	int signal, status;

	sem_init(&called, 0, 0);
	sem_init(&go_home, 0, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1) { /* started by exec below */
		r = tdcall(1, 0, 0, 0);
		printf("after exec: TDG.VP.INFO %#llx, argument %s\n", (unsigned long long)r.rax, argv[1]);
		return 0;
	}

	struct sigaction action = {.sa_handler = jump};
	sigaction(SIGILL, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	signal = sigsetjmp(back, 1);
	if (!signal)
		asm volatile("ud2");
	printf("ud2: signal %d\n", signal);
	action.sa_handler = SIG_DFL;
	sigaction(SIGILL, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);

	action.sa_handler = note;
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGRTMIN + 3, &action, NULL);
	raise(SIGUSR1);
	printf("SIGUSR1: %d\n", (int)seen);
	raise(SIGRTMIN + 3);
	printf("a real-time signal: %d\n", seen == SIGRTMIN + 3);

	r = seamcall(33, 0, 0, 0); /* TDH.SYS.INIT */
	printf("TDH.SYS.INIT %#llx, arithmetic flags %#llx\n", (unsigned long long)r.rax,
	       (unsigned long long)(r.flags & 0x8D5));
	r = seamcall(0x7F, 0, 0, 0);
	printf("an unknown leaf %#llx\n", (unsigned long long)r.rax);
	seamcall(35, 0, 0, 0);
	/* The main thread is processor 0, the threads are 1 to 3; two more have none of their own. */
	for (int n = 0; n < 5; n++) {
		pthread_create(&threads[n], NULL, on_thread, &of_threads[n]);
		sem_wait(&called); /* each is still there when the next one comes */
		printf("thread %d: TDH.SYS.LP.INIT %#llx\n", n, (unsigned long long)of_threads[n].rax);
	}
	for (int n = 0; n < 5; n++)
		sem_post(&go_home);
	for (int n = 0; n < 5; n++)
		pthread_join(threads[n], NULL);
	pthread_create(&victim, NULL, wait_for_ever, NULL);
	pthread_cancel(victim);
	printf("a cancelled thread: %d\n", pthread_join(victim, NULL));

	memset(data, 0x5A, sizeof(data));
	r = tdcall(4, (uint64_t)report, (uint64_t)data, 0); /* TDG.MR.REPORT */
	printf("TDG.MR.REPORT %#llx, type %#x, REPORTDATA %s, arithmetic flags %#llx\n", (unsigned long long)r.rax,
	       report[0], memcmp(report + 128, data, 64) ? "differs" : "is there",
	       (unsigned long long)(r.flags & 0xD5));
	r = tdcall(4, (uint64_t)report + 8, (uint64_t)data, 0);
	printf("misaligned %#llx\n", (unsigned long long)r.rax);
	action.sa_handler = jump;
	sigaction(SIGSEGV, &action, NULL);
	signal = sigsetjmp(back, 1);
	if (!signal)
		tdcall(4, 0x1000, (uint64_t)data, 0);
	printf("no memory there: signal %d\n", signal);
	r = tdcall(1, 0, 0, 0);
	printf("and after it TDG.VP.INFO %#llx\n", (unsigned long long)r.rax);

	if (!fork()) {
		data[0] = 1;
		r = tdcall(4, (uint64_t)report, (uint64_t)data, 0);
		printf("child: TDG.MR.REPORT %#llx, REPORTDATA %s\n", (unsigned long long)r.rax,
		       memcmp(report + 128, data, 64) ? "differs" : "is its own");
		execl("/proc/self/exe", "behaviour", "again", NULL);
		_exit(9);
	}
	wait(&status);
	printf("child: status %d\n", WEXITSTATUS(status));
	return 42;
}
