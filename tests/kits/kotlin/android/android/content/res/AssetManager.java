package android.content.res;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;

/** Serves a folder of this machine as the assets. */
public final class AssetManager implements AutoCloseable {
    private final File folder;

    public AssetManager(File standIn) {
        folder = standIn;
    }

    public InputStream open(String fileName) throws IOException {
        return new FileInputStream(new File(folder, fileName));
    }

    public String[] list(String path) throws IOException {
        String[] names = new File(folder, path).list();
        return names == null ? new String[0] : names;
    }

    @Override
    public void close() {}
}
