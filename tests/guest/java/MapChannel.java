// SPDX-License-Identifier: GPL-2.0

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/** What Java's own mapping of a file makes of a device: it prints size and error. */
public final class MapChannel {
    private MapChannel() {}

    public static void main(String[] args) throws IOException {
        try (var channel =
                FileChannel.open(Path.of(args[0]), StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            System.out.println("size " + channel.size());
            try {
                channel.map(FileChannel.MapMode.READ_WRITE, 0, 4096);
                System.out.println("mapped");
            } catch (IOException e) {
                System.out.println(e.getMessage());
            }
        }
    }
}
