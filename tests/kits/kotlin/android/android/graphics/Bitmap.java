package android.graphics;

/**
 * Colours of 8 bits, not premultiplied. As on a device, getPixels gives sRGB whatever the bitmap's own colour space.
 *
 * Large bitmaps come out of a Source: on a device pixels lie outside of the Java heap.
 */
public final class Bitmap {
    /** The colour of a pixel as 0xAARRGGBB, in the bitmap's own colour space. */
    public interface Source {
        int at(int x, int y);
    }

    private final int width;
    private final int height;
    private final Config config;
    private final ColorSpace space;
    private final Source source;
    private boolean recycled;

    public Bitmap(int width, int height, Config config, ColorSpace space, Source standIn) {
        this.width = width;
        this.height = height;
        this.config = config;
        this.space = space;
        source = standIn;
    }

    public static Bitmap createBitmap(int[] colors, int width, int height, Config config) {
        if (width <= 0 || height <= 0) throw new IllegalArgumentException("width and height must be > 0");
        int[] copy = colors.clone();
        ColorSpace space = ColorSpace.get(ColorSpace.Named.SRGB);
        return new Bitmap(width, height, config, space, (x, y) -> copy[y * width + x]);
    }

    public int getWidth() {
        return width;
    }

    public int getHeight() {
        return height;
    }

    public Config getConfig() {
        return config;
    }

    public ColorSpace getColorSpace() {
        return space;
    }

    public boolean isRecycled() {
        return recycled;
    }

    public void recycle() {
        recycled = true;
    }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        if (recycled) throw new IllegalStateException("Can't call getPixels() on a recycled bitmap");
        if (config == Config.HARDWARE) {
            throw new IllegalStateException("unable to getPixels() of a Config#HARDWARE bitmap");
        }
        boolean isWide = space == ColorSpace.get(ColorSpace.Named.DISPLAY_P3);
        for (int row = 0; row < height; row++) {
            for (int column = 0; column < width; column++) {
                int color = source.at(x + column, y + row);
                pixels[offset + row * stride + column] = isWide ? DisplayP3.toSrgb(color) : color;
            }
        }
    }

    public enum Config { ALPHA_8, RGB_565, ARGB_4444, ARGB_8888, RGBA_F16, HARDWARE, RGBA_1010102 }
}
