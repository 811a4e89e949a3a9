package android.media;

import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** Reads the orientation out of the eXIf chunk of a PNG, the one format that tests write. */
public class ExifInterface {
    public static final String TAG_ORIENTATION = "Orientation";
    public static final int ORIENTATION_UNDEFINED = 0;
    public static final int ORIENTATION_NORMAL = 1;
    public static final int ORIENTATION_FLIP_HORIZONTAL = 2;
    public static final int ORIENTATION_ROTATE_180 = 3;
    public static final int ORIENTATION_FLIP_VERTICAL = 4;
    public static final int ORIENTATION_TRANSPOSE = 5;
    public static final int ORIENTATION_ROTATE_90 = 6;
    public static final int ORIENTATION_TRANSVERSE = 7;
    public static final int ORIENTATION_ROTATE_270 = 8;

    private int orientation = ORIENTATION_UNDEFINED;

    public ExifInterface(String filename) throws IOException {
        try (DataInputStream file = new DataInputStream(new FileInputStream(new File(filename)))) {
            file.skipBytes(8);
            while (file.available() >= 12) {
                int length = file.readInt();
                String kind = new String(file.readNBytes(4), "US-ASCII");
                byte[] data = file.readNBytes(length);
                file.skipBytes(4);
                if (kind.equals("eXIf")) orientation = orientation(data);
            }
        }
    }

    public int getAttributeInt(String tag, int defaultValue) {
        return orientation == ORIENTATION_UNDEFINED ? defaultValue : orientation;
    }

    private static int orientation(byte[] exif) {
        int start = new String(exif, 0, 4, java.nio.charset.StandardCharsets.ISO_8859_1).equals("Exif") ? 6 : 0;
        ByteBuffer data = ByteBuffer.wrap(exif, start, exif.length - start).slice();
        data.order(data.get(0) == 'I' ? ByteOrder.LITTLE_ENDIAN : ByteOrder.BIG_ENDIAN);
        int table = data.getInt(4);
        for (int entry = 0; entry < data.getShort(table); entry++) {
            int at = table + 2 + 12 * entry;
            if (data.getShort(at) == 0x0112) return data.getShort(at + 8);
        }
        return ORIENTATION_UNDEFINED;
    }
}
