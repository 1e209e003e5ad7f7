// SPDX-License-Identifier: MIT OR Apache-2.0

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.StructLayout;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.function.Consumer;

/**
 * A log on persistent memory that no power cut tears.
 *
 * <pre>
 * RpmemLog DEVICE             show its records
 * RpmemLog DEVICE --format    make an empty log, whatever is there
 * RpmemLog DEVICE --append    a record of each line of standard input
 * </pre>
 *
 * The format is that of lib/rpmem/examples/append/log.rs. There is one writer at a time.
 */
public final class RpmemLog {
    private static final int SIZE = 1 << 20;
    private static final ValueLayout.OfLong WORD = JAVA_LONG.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final long MAGIC = 0x676f_6c6d_656d_7072L; // "rpmemlog"
    private static final long VERSION = 1;
    // The header; how far the log is known to reach; records: checksum, length, data.
    private static final int HEADER = 56;
    private static final int KNOWN = 64;
    private static final int FIRST = 128;
    private static final int HEAD = 16;

    private final Mapping map;
    private MemorySegment memory;
    private long end;
    /** The checksum of the last record. */
    private long last;

    private RpmemLog(Mapping map) {
        this.map = map;
        this.memory = map.memory;
    }

    /** Makes an empty log. */
    void format() throws IOException {
        var header = MemorySegment.ofArray(new long[FIRST / 8]);
        var identity = new byte[16];
        new SecureRandom().nextBytes(identity);
        header.set(WORD, 0, MAGIC);
        header.set(WORD, 8, VERSION);
        header.set(WORD, 16, memory.byteSize());
        MemorySegment.copy(identity, 0, header, JAVA_BYTE, 24, identity.length);
        header.set(WORD, HEADER, checksum(header.asSlice(0, HEADER)));
        memory.asSlice(0, FIRST).copyFrom(header);
        map.persist(0, FIRST);
    }

    /** Finds the end of the log, and gives each record on the way. */
    void replay(Consumer<byte[]> record) throws IOException {
        if (memory.get(WORD, 0) != MAGIC) {
            throw new IOException("no log; what is there may be in use by somebody else");
        }
        if (memory.get(WORD, 8) != VERSION) {
            throw new IOException("a log of version " + memory.get(WORD, 8) + ", not " + VERSION);
        }
        last = memory.get(WORD, HEADER);
        if (last != checksum(memory.asSlice(0, HEADER))) {
            throw new IOException("a log with a damaged header");
        }
        long size = memory.get(WORD, 16);
        if (size < FIRST || size > memory.byteSize()) {
            throw new IOException("a log of " + size + " bytes, which are not all there");
        }
        memory = memory.asSlice(0, size);
        end = FIRST;
        while (end + HEAD <= size) {
            long sum = memory.get(WORD, end);
            long length = memory.get(WORD, end + 8);
            // Of a torn record it is any number.
            if (length < 0 || length > size - end - HEAD) {
                break;
            }
            byte[] data = memory.asSlice(end + HEAD, length).toArray(JAVA_BYTE);
            if (sum != checksumAfterLast(data)) {
                break;
            }
            record.accept(data);
            end += taken(length);
            last = sum;
        }
        if (memory.get(WORD, KNOWN) > end) {
            throw new IOException("the record at " + end + " is damaged");
        }
    }

    /** Appends a record. When this returns, no power cut takes it away. */
    void append(byte[] data) throws IOException {
        long length = taken(data.length);
        if (length > memory.byteSize() - end) {
            throw new IOException("the log is full");
        }
        long sum = checksumAfterLast(data);
        memory.set(WORD, end, sum);
        memory.set(WORD, end + 8, data.length);
        MemorySegment.copy(data, 0, memory, JAVA_BYTE, end + HEAD, data.length);
        map.persist(end, length);
        end += length;
        last = sum;
        // Not before the record is durable: it says that it is. Durable with the next one.
        map.persist(KNOWN, 8);
        memory.set(WORD, KNOWN, end);
    }

    private static long taken(long length) {
        return HEAD + (length + 7) / 8 * 8;
    }

    /** Of a record after the last one. What an older log has left does not have it. */
    private long checksumAfterLast(byte[] data) {
        var all = MemorySegment.ofArray(new byte[HEAD + data.length]);
        all.set(UNALIGNED_WORD, 0, last);
        all.set(UNALIGNED_WORD, 8, data.length);
        MemorySegment.copy(data, 0, all, JAVA_BYTE, HEAD, data.length);
        return checksum(all);
    }

    private static final ValueLayout.OfLong UNALIGNED_WORD = WORD.withByteAlignment(1);

    private static final long[] TABLE = new long[256];

    static {
        for (int n = 0; n < TABLE.length; n++) {
            long crc = n;
            for (int bit = 0; bit < 8; bit++) {
                crc = crc >>> 1 ^ (0xc96c_5795_d787_0f42L & -(crc & 1));
            }
            TABLE[n] = crc;
        }
    }

    /** CRC-64 of xz. */
    private static long checksum(MemorySegment bytes) {
        long crc = -1;
        for (byte b : bytes.toArray(JAVA_BYTE)) {
            crc = crc >>> 8 ^ TABLE[(int) (crc ^ b) & 0xff];
        }
        return ~crc;
    }

    /**
     * A mapping of a device. FileChannel.map() makes none: it takes a character device for a file of size 0,
     * and fails to extend it. So this calls mmap(2) itself.
     *
     * <p>It is a plain one, which msync(2) makes durable; or, with the library that lib/java/persist.c is,
     * a synchronous one, which instructions of the CPU do.
     */
    static final class Mapping {
        private static final int O_RDWR = 2;
        private static final int SEEK_END = 2;
        private static final int PROT_READ_WRITE = 1 | 2;
        private static final int MAP_SHARED = 1;
        private static final int MAP_SHARED_VALIDATE = 3;
        private static final int MAP_SYNC = 0x80000; // on most architectures
        private static final int MS_SYNC = 4;
        private static final long PAGE = 4096;

        private static final Linker LINKER = Linker.nativeLinker();
        private static final StructLayout STATE = Linker.Option.captureStateLayout();
        private static final VarHandle ERRNO =
                STATE.varHandle(MemoryLayout.PathElement.groupElement("errno"));
        private static final MethodHandle OPEN =
                libc("open", FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_INT), Linker.Option.firstVariadicArg(2));
        private static final MethodHandle CLOSE = libc("close", FunctionDescriptor.of(JAVA_INT, JAVA_INT));
        private static final MethodHandle LSEEK =
                libc("lseek", FunctionDescriptor.of(JAVA_LONG, JAVA_INT, JAVA_LONG, JAVA_INT));
        private static final MethodHandle MMAP = libc("mmap", FunctionDescriptor.of(
                JAVA_LONG, ADDRESS, JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_INT, JAVA_LONG));
        private static final MethodHandle MSYNC =
                libc("msync", FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_LONG, JAVA_INT));
        private static final MethodHandle STRERROR =
                LINKER.downcallHandle(symbol(LINKER.defaultLookup(), "strerror"),
                        FunctionDescriptor.of(ADDRESS, JAVA_INT));

        final MemorySegment memory;
        private final MemorySegment state = Arena.global().allocate(STATE);
        /** Of the library, where the mapping is synchronous. */
        private MethodHandle persist;

        /** Maps the first bytes of a device. It stays mapped to the end of the program. */
        Mapping(String path, long most, String library) throws IOException {
            int fd;
            try (Arena arena = Arena.ofConfined()) {
                fd = (int) call("open", OPEN, arena.allocateFrom(path), O_RDWR);
            }
            try {
                long size = Math.min(call("lseek", LSEEK, fd, 0L, SEEK_END), most);
                int flags = MAP_SHARED;
                if (library != null) {
                    flags = MAP_SHARED_VALIDATE | MAP_SYNC;
                    persist = LINKER.downcallHandle(
                            symbol(SymbolLookup.libraryLookup(Path.of(library), Arena.global()), "persist"),
                            FunctionDescriptor.ofVoid(ADDRESS, JAVA_LONG));
                }
                long at = call("mmap", MMAP, MemorySegment.NULL, size, PROT_READ_WRITE, flags, fd, 0L);
                memory = MemorySegment.ofAddress(at).reinterpret(size);
            } finally {
                call("close", CLOSE, fd);
            }
        }

        /** Makes what was stored there durable. */
        void persist(long at, long length) throws IOException {
            if (persist == null) {
                long start = at - at % PAGE;
                call("msync", MSYNC, memory.asSlice(start), at + length - start, MS_SYNC);
                return;
            }
            try {
                persist.invokeExact(memory.asSlice(at), length);
            } catch (Throwable e) {
                throw new AssertionError(e);
            }
        }

        private long call(String name, MethodHandle function, Object... arguments) throws IOException {
            long result;
            try {
                // The place for errno comes before the arguments.
                result = ((Number) function.bindTo(state).invokeWithArguments(arguments)).longValue();
            } catch (Throwable e) {
                throw new AssertionError(e);
            }
            if (result == -1) {
                throw new IOException(name + ": " + strerror((int) ERRNO.get(state, 0L)));
            }
            return result;
        }

        private static String strerror(int errno) {
            try {
                return ((MemorySegment) STRERROR.invokeExact(errno)).reinterpret(Long.MAX_VALUE).getString(0);
            } catch (Throwable e) {
                throw new AssertionError(e);
            }
        }

        private static MemorySegment symbol(SymbolLookup lookup, String name) {
            return lookup.find(name).orElseThrow(() -> new UnsatisfiedLinkError(name));
        }

        private static MethodHandle libc(String name, FunctionDescriptor type, Linker.Option... options) {
            var all = java.util.Arrays.copyOf(options, options.length + 1);
            all[options.length] = Linker.Option.captureCallState("errno");
            return LINKER.downcallHandle(symbol(LINKER.defaultLookup(), name), type, all);
        }
    }

    private static void run(String path, String what) throws IOException {
        var log = new RpmemLog(new Mapping(path, SIZE, System.getProperty("rpmem.library")));
        if (what.equals("--format")) {
            log.format();
            return;
        }
        log.replay(data -> {
            if (what.isEmpty()) {
                System.out.println(new String(data, StandardCharsets.UTF_8));
            }
        });
        if (what.equals("--append")) {
            var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            String line;
            for (int count = 1; (line = lines.readLine()) != null; count++) {
                log.append(line.getBytes(StandardCharsets.UTF_8));
                System.out.println("acknowledged " + count);
            }
        }
    }

    public static void main(String[] args) {
        String what = args.length == 2 ? args[1] : "";
        if (args.length < 1 || args.length > 2 || !java.util.Set.of("", "--format", "--append").contains(what)) {
            System.err.println("usage: RpmemLog DEVICE [--format | --append]");
            System.exit(2);
        }
        try {
            run(args[0], what);
        } catch (IOException e) {
            System.err.println(args[0] + ": " + e.getMessage());
            System.exit(1);
        }
    }
}
