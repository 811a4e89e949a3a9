package android.os;

public class Process {
    /** Tests set it. */
    public static volatile boolean standInIs64Bit = true;

    public static boolean is64Bit() {
        return standInIs64Bit;
    }
}
