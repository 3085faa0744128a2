/* What a Cortex-M needs before main: vectors, initialised memory; and after it: the exit code of
   main to the emulator or debugger (semihosting, SYS_EXIT_EXTENDED). */
#include <stdint.h>

extern uint32_t stack_top, data_source, data_start, data_end, bss_start, bss_end;
int main(void);

static void leave(int code)
{
    const uint32_t block[2] = {0x20026, (uint32_t)code}; /* ADP_Stopped_ApplicationExit */
    register uint32_t operation __asm__("r0") = 0x20;
    register const uint32_t *argument __asm__("r1") = block;

    __asm__ volatile("bkpt 0xab" : : "r"(operation), "r"(argument) : "memory");
}

static void reset(void)
{
    const uint32_t *from = &data_source;

    for (uint32_t *to = &data_start; to < &data_end; to++)
        *to = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end; to++)
        *to = 0;
    leave(main());
    for (;;) {
    }
}

static void fault(void)
{
    leave(255);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    &stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
};
