package android.os.storage;

import java.io.File;
import java.io.IOException;
import java.util.UUID;

/** One volume, which has as much space as a test says. */
public final class StorageManager {
    /** Set by tests. */
    public static long free = Long.MAX_VALUE;

    /** What the kit asked for last. */
    public static long allocated = 0;

    private static final UUID VOLUME = new UUID(0, 1);

    public UUID getUuidForPath(File path) throws IOException {
        if (!path.isDirectory()) throw new IOException("no such folder: " + path);
        return VOLUME;
    }

    public long getAllocatableBytes(UUID storageUuid) throws IOException {
        return free;
    }

    public void allocateBytes(UUID storageUuid, long bytes) throws IOException {
        if (bytes > free) throw new IOException("not enough space");
        allocated = bytes;
    }
}
