package android.media;

import java.io.IOException;

/** Knows no format: it says the orientation that a test put here, as of a HEIC file. */
public class ExifInterface {
    public static final String TAG_ORIENTATION = "Orientation";
    public static int standIn = 1;

    public ExifInterface(String filename) throws IOException {
        if (filename == null) throw new NullPointerException("filename cannot be null");
    }

    public int getAttributeInt(String tag, int defaultValue) {
        return tag.equals(TAG_ORIENTATION) ? standIn : defaultValue;
    }
}
