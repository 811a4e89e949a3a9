package android.media;

import android.graphics.Rect;
import android.hardware.DataSpace;
import java.nio.ByteBuffer;

/** Tests write their own: strides, buffers, crop and data space are what differs from phone to phone. */
public abstract class Image implements AutoCloseable {
    public abstract int getFormat();

    public abstract int getWidth();

    public abstract int getHeight();

    public abstract Plane[] getPlanes();

    public Rect getCropRect() {
        return new Rect(0, 0, getWidth(), getHeight());
    }

    public int getDataSpace() {
        return DataSpace.DATASPACE_UNKNOWN;
    }

    @Override
    public abstract void close();

    public abstract static class Plane {
        public abstract int getRowStride();

        public abstract int getPixelStride();

        public abstract ByteBuffer getBuffer();
    }
}
