package androidx.camera.core;

import android.graphics.Rect;
import android.media.Image;

public interface ImageProxy extends AutoCloseable {
    @Override
    void close();

    Rect getCropRect();

    ImageInfo getImageInfo();

    @ExperimentalGetImage
    Image getImage();
}
