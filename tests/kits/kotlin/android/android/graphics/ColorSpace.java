package android.graphics;

/** The colour spaces that tests use. Conversion to sRGB is part of the stand-in Bitmap. */
public class ColorSpace {
    private final String name;

    ColorSpace(String name) {
        this.name = name;
    }

    public String getName() {
        return name;
    }

    public static ColorSpace get(Named name) {
        return name.space;
    }

    public enum Named {
        SRGB("sRGB IEC61966-2.1"),
        DISPLAY_P3("Display P3"),
        BT2020_HLG("Hybrid Log Gamma encoding"),
        BT2020_PQ("Perceptual Quantizer encoding");

        final ColorSpace space;

        Named(String text) {
            space = new ColorSpace(text);
        }
    }
}
