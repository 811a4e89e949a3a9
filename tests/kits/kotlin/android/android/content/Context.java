package android.content;

import android.content.res.AssetManager;
import java.io.File;

/** Tests implement the few services that the kit asks for. */
public abstract class Context {
    public abstract AssetManager getAssets();

    public abstract File getFilesDir();

    public abstract File getCacheDir();

    public abstract Object getSystemService(String name);

    public final <T> T getSystemService(Class<T> service) {
        return service.cast(getSystemService(service.getName()));
    }
}
