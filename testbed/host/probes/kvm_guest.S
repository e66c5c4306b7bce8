/* What the KVM probe boots: a multiboot kernel that does, one after the other, what a stock 64-bit kernel needs
   before it has printed a line, and tells on port 0xe9 which step it has come to.  It ends the machine through
   isa-debug-exit (port 0xf4) after the last step; a step that goes wrong hangs or resets instead.

   kvm_guest.py holds the assembled bytes; tests/unit/test_host_doctor.py says how they are made and checks them. */

    .set TABLES, 0x200000           /* PML4, PDPT, then four page directories: 4 GiB mapped one to one */
    .set IDT, 0x210000
    .set STACK, 0x220000
    .set APIC, 0xfee00000
    .set TICKS, 20
    .set FAR_AWAY, 0x140000000      /* 5 GiB: not mapped until it is touched */

    .macro step letter
    movb $\letter, %al
    outb %al, $0xe9
    .endm

    .macro gate vector, handler     /* a 64-bit interrupt gate; handlers lie below 64 KiB of the load address */
    movl $\handler, %eax
    movl $(IDT + \vector * 16), %edi
    movw %ax, (%rdi)
    movw $0x08, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    shrl $16, %eax
    movw %ax, 6(%rdi)
    movl $0, 8(%rdi)
    movl $0, 12(%rdi)
    .endm

    .text
    .code32
    .globl _start
_start:
    .long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)    /* multiboot, with addresses */
    .long _start, _start, 0, 0, enter

gdt:
    .quad 0
    .quad 0x00209a0000000000        /* 08: kernel code, 64 bits */
    .quad 0x0000920000000000        /* 10: kernel data */
    .quad 0x0000f20000000000        /* 18: user data */
    .quad 0x0020fa0000000000        /* 20: user code, 64 bits */
gdt_pointer:
    .word . - gdt - 1
    .long gdt
idt_pointer:
    .word 256 * 16 - 1
    .quad IDT

enter:
    cli
    movl $STACK, %esp
    step 'A'                        /* protected mode */
    lgdt gdt_pointer
    cld
    movl $TABLES, %edi
    movl $(0x20000 / 4), %ecx
    xorl %eax, %eax
    rep stosl
    movl $(TABLES + 0x1007), TABLES
    movl $(TABLES + 0x2007), TABLES + 0x1000
    movl $(TABLES + 0x3007), TABLES + 0x1008
    movl $(TABLES + 0x4007), TABLES + 0x1010
    movl $(TABLES + 0x5007), TABLES + 0x1018
    movl $(TABLES + 0x2000), %edi
    movl $0x87, %eax                /* present, writable, user, 2 MiB */
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    jnc 1b

    movl %cr4, %eax
    orl $0x6a0, %eax                /* PAE, PGE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $TABLES, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          /* EFER: SCE, LME, NXE */
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl %cr0, %eax
    andl $~0xc, %eax
    orl $0x80010023, %eax           /* PG, WP, NE, MP, PE */
    movl %eax, %cr0
    ljmp $0x08, $long_mode

    .code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    step 'B'                        /* long mode */

    movl $6, %eax
    cvtsi2sd %eax, %xmm0
    movapd %xmm0, %xmm1
    mulsd %xmm0, %xmm1
    cvtsd2si %xmm1, %eax
    cmpl $36, %eax
    jne fail
    movl $1, %eax
    cpuid
    andl $0x14000000, %ecx          /* XSAVE, AVX */
    cmpl $0x14000000, %ecx
    jne 1f
    movq %cr4, %rax
    orl $0x40000, %eax              /* OSXSAVE */
    movq %rax, %cr4
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $7, %eax
    xsetbv
    vpcmpeqd %xmm2, %xmm2, %xmm2
    vinsertf128 $1, %xmm2, %ymm2, %ymm2
    vextractf128 $1, %ymm2, %xmm3
    vmovd %xmm3, %eax
    cmpl $-1, %eax
    jne fail
1:  step 'C'                        /* vector units */

    movl $0x12345678, %eax
    xorl %edx, %edx
    movl $0xc0000102, %ecx          /* kernel GS base, then swapped with the user's */
    wrmsr
    movl $0xc0000101, %ecx
    xorl %eax, %eax
    wrmsr
    swapgs
    rdmsr
    cmpl $0x12345678, %eax
    jne fail
    step 'D'                        /* model-specific registers */

    gate 3, on_breakpoint
    gate 14, on_page_fault
    gate 0x40, on_timer
    lidt idt_pointer
    xorl %r15d, %r15d
    int3
    cmpl $1, %r15d
    jne fail
    movq $FAR_AWAY + 0x100000, %rbx
    cmpl $0x1badb002, (%rbx)        /* faults, is mapped by the handler, and shows this very program */
    jne fail
    cmpl $2, %r15d
    jne fail
    step 'E'                        /* exceptions and paging */

    movl $0xc0000081, %ecx          /* STAR: system calls come in with CS 08, SS 10 */
    xorl %eax, %eax
    movl $0x00100008, %edx
    wrmsr
    movl $0xc0000082, %ecx          /* LSTAR */
    movl $on_syscall, %eax
    xorl %edx, %edx
    wrmsr
    movl $0xc0000084, %ecx          /* SFMASK: without interrupts */
    movl $0x200, %eax
    wrmsr
    pushq $0x1b
    pushq $STACK - 0x1000
    pushq $0x2
    pushq $0x23
    pushq $user_mode
    iretq
user_mode:
    movl %cs, %r14d
    syscall
    ud2
on_syscall:
    movl $STACK, %esp
    cmpl $0x23, %r14d
    jne fail
    step 'F'                        /* user mode and system calls */

    movb $0xff, %al                 /* the old interrupt controllers are masked */
    outb %al, $0x21
    outb %al, $0xa1
    movl $APIC, %ebx
    movl $0x1ff, 0xf0(%rbx)         /* enabled */
    movl $0x20040, 0x320(%rbx)      /* periodic timer, vector 40 */
    movl $0xb, 0x3e0(%rbx)          /* divide by 1 */
    movl $1000000, 0x380(%rbx)
    xorl %r13d, %r13d
1:  sti
    hlt
    cli
    cmpl $TICKS, %r13d
    jb 1b
    movl $0x10000, 0x320(%rbx)
    step 'G'                        /* timer interrupts */

    movl $2000, %esi
1:  movq %cr3, %rax
    movq %rax, %cr3
    invlpg (%rbx)
    xorl %eax, %eax
    cpuid
    decl %esi
    jnz 1b
    movl $100000000, %ecx           /* some 30 ms on a processor; far too long for what interprets the guest */
1:  decl %ecx
    jnz 1b
    step 'H'                        /* at the speed of a processor */
    movb $0x2a, %al
    outb %al, $0xf4                 /* exit status 2 * 0x2a + 1 */
fail:
    cli
    hlt
    jmp fail

on_breakpoint:
    incl %r15d
    iretq
on_page_fault:
    addq $8, %rsp                   /* error code */
    movq %cr2, %rax
    cmpq %rax, %rbx
    jne fail
    movl $(TABLES + 0x2007), TABLES + 0x1028
    incl %r15d
    iretq
on_timer:
    incl %r13d
    movl $0, 0xb0(%rbx)              /* end of interrupt */
    iretq
